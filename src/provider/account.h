/*-------------------------------------------------------------------------
 *
 * account.h
 *	  Whose account it is, as the provider says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ACCOUNT_H
#define CONDUIT_ACCOUNT_H

#include "base/compat.h"
#include "provider/connector.h"

#define CONDUIT_MAX_ACCOUNT_LEN 1024

/*
 * conduit_account_read reads the account and what to call it from an answer:
 * that of account_url, or a token response where the connector has none.
 * Both are copied, in UTF-8; NULL where the answer does not say, or says what
 * can be none (not a text or number, empty, too long, with control characters).
 */
extern void conduit_account_read(const ConduitConnector *connector, const ConduitJson *answer,
								 const char **account, const char **label);

#endif							/* CONDUIT_ACCOUNT_H */
