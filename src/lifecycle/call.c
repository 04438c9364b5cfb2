/*-------------------------------------------------------------------------
 *
 * call.c
 *	  Having the worker send an HTTP request, and waiting for the response.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/call.h"

#include "access/xlog.h"
#include "utils/timestamp.h"

#include "base/report.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "lifecycle/wait.h"
#include "provider/api_message.h"

SealPlace
conduit_call_place(const pg_uuid_t *id, CallPart part)
{
	SealPlace	place = {
		.purpose = "call",.row = id,.connection = id,.tenant = "",.owner = "",.connector = "",
		.field = part == CALL_REQUEST ? "request" : "response",.generation = 0,.origin = ""
	};

	return place;
}

static bytea *
seal_request(const HttpRequest *request, const pg_uuid_t *id)
{
	SealPlace	place = conduit_call_place(id, CALL_REQUEST);
	Size		length;
	void	   *message = conduit_api_message_from_request(request, &length);
	bytea	   *sealed;
	SealStatus	status = conduit_seal(&place, message, length, &sealed);

	conduit_wipe(message, length);
	pfree(message);
	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_key_seal_done();
	return sealed;
}

static void
open_response(const WaitMail *mail, const pg_uuid_t *id, CallResponse *response)
{
	SealPlace	place = conduit_call_place(id, CALL_RESPONSE);
	bytea	   *sealed = palloc(VARHDRSZ + mail->reply_length);
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	SealStatus	status;

	SET_VARSIZE(sealed, VARHDRSZ + mail->reply_length);
	memcpy(VARDATA(sealed), mail->reply, mail->reply_length);
	status = conduit_open(&place, sealed, &response->opened, key_id);
	if (status != SEAL_OK)
		conduit_key_raise(status, key_id);
	pfree(sealed);
	if (!conduit_api_message_to_response((char *) response->opened.data, response->opened.length, &response->http))
		conduit_raise(CONDUIT_ERR_UNAVAILABLE, "internal");
}

void
conduit_call(HttpRequest *request, const char *connector, TimestampTz until, CallResponse *response)
{
	FlightRequest flight = {.kind = REQUEST_CALL,.connection = conduit_new_id()};
	WaitMail	mail = {.wants_reply = true};
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	bytea	   *sealed;
	RequestAnswer answer;

	if (RecoveryInProgress())
		conduit_raise(CONDUIT_ERR_UNAVAILABLE, "standby");
	if (left <= 0)
		conduit_raise(CONDUIT_ERR_UNAVAILABLE, "timeout");
	request->timeout_ms = (int) left;
	strlcpy(flight.connector, connector, sizeof(flight.connector));
	sealed = seal_request(request, &flight.connection);
	mail.message = VARDATA(sealed);
	mail.length = VARSIZE(sealed) - VARHDRSZ;
	answer = conduit_wait_with_mail(&flight, &mail, (int) left, NULL);
	pfree(sealed);
	switch (answer)
	{
		case ANSWER_DONE:
			open_response(&mail, &flight.connection, response);
			break;
		case ANSWER_NONE:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "timeout");
		case ANSWER_GONE:
			conduit_raise(CONDUIT_ERR_NO_WORKER, "no_worker");
		case ANSWER_LOST:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "lost");
		case ANSWER_VAULT:
			conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "worker_keyring");
		default:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "internal");
	}
}

void
conduit_call_wipe(CallResponse *response)
{
	conduit_wipe_opened(&response->opened);
}
