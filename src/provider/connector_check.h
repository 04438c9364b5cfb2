/*-------------------------------------------------------------------------
 *
 * connector_check.h
 *	  How the fields of a definition fit together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CONNECTOR_CHECK_H
#define CONDUIT_CONNECTOR_CHECK_H

#include "base/compat.h"
#include "provider/connector_field.h"

/*
 * conduit_connector_check refuses, in the name of one of them, fields that are
 * good one by one and make no connector together.  All fields have been read
 * and their defaults are set.
 */
extern void conduit_connector_check(const DefinitionReader *reader);

#endif							/* CONDUIT_CONNECTOR_CHECK_H */
