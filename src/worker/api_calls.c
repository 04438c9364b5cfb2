/*-------------------------------------------------------------------------
 *
 * api_calls.c
 *	  Calls of providers' APIs on behalf of sessions that wait for them.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/api_calls.h"

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "base/settings.h"
#include "lifecycle/call.h"
#include "lifecycle/key.h"
#include "provider/api_message.h"
#include "provider/api_request.h"
#include "vault/seal.h"
#include "worker/errands.h"
#include "worker/queue.h"
#include "worker/round.h"

typedef struct ApiCall
{
	ExchangeOwner base;			/* first */
	dlist_node	node;
	Mail	   *mail;
	Exchange   *exchange;		/* NULL: it waits for a place */
} ApiCall;

static dlist_head waiting = DLIST_STATIC_INIT(waiting);
static dlist_head flying = DLIST_STATIC_INIT(flying);
static int	nflying = 0;

/* The call is over, in neither list any more. */
static void
answer(ApiCall *call, RequestAnswer how)
{
	conduit_mail_answer(call->mail, how);
	conduit_exchange_free(call->exchange);
	pfree(call);
}

/*
 * Open the message and send what it says.  Returns what the session is to be
 * told if that cannot be done, ANSWER_NONE otherwise.
 */
static RequestAnswer
send_call(ApiCall *call)
{
	SealPlace	place = conduit_call_place(&call->mail->request.connection, CALL_REQUEST);
	bytea	   *sealed = palloc(VARHDRSZ + call->mail->length);
	OpenedSecret opened;
	HttpRequest request;
	HttpHeader	headers[CONDUIT_MAX_API_HEADERS];
	bool		whole;

	SET_VARSIZE(sealed, VARHDRSZ + call->mail->length);
	memcpy(VARDATA(sealed), call->mail->data, call->mail->length);
	if (conduit_open(&place, sealed, &opened, NULL) != SEAL_OK)
		return ANSWER_VAULT;
	whole = conduit_api_message_to_request((char *) opened.data, opened.length, &request, headers, lengthof(headers));
	if (whole)
		call->exchange = conduit_exchange_call(&request, &call->base);
	conduit_wipe_opened(&opened);
	pfree(sealed);
	return whole ? ANSWER_NONE : ANSWER_FAILED;
}

static RequestAnswer
try_send(ApiCall *call)
{
	volatile RequestAnswer result = ANSWER_FAILED;

	PG_TRY();
	{
		result = send_call(call);
	}
	PG_CATCH();
	{
		conduit_round_recover("calling an API");
	}
	PG_END_TRY();
	return result;
}

/* Calls alone must not keep a worker that is to make way for its successor. */
static bool
may_send(void)
{
	return !conduit_round.restart || conduit_queue_flying() > 0 || conduit_errands_under_way() > 0;
}

/* Half of the places are one connector's at most: the other half is left for those whose APIs are not slow. */
static bool
has_place(const ApiCall *call)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &flying)
		n += strcmp(dlist_container(ApiCall, node, iter.cur)->mail->request.connector, call->mail->request.connector) == 0;
	return n < Max(1, conduit_max_in_flight / 2);
}

static void
start_waiting(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
	{
		ApiCall    *call = dlist_container(ApiCall, node, iter.cur);
		RequestAnswer result;

		if (!may_send() || nflying >= conduit_max_in_flight)
			break;
		if (!has_place(call))
			continue;
		dlist_delete(&call->node);
		result = try_send(call);
		if (result != ANSWER_NONE)
		{
			answer(call, result);
			continue;
		}
		dlist_push_tail(&flying, &call->node);
		nflying++;
	}
}

/*
 * Whose session has left is forgotten, also amid a request: who calls and
 * cancels again and again must neither keep places nor fill memory.  There is
 * nobody to be told.
 */
static void
forget_left(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
	{
		ApiCall    *call = dlist_container(ApiCall, node, iter.cur);

		if (conduit_flight_still_waiting(call->mail->waiter))
			continue;
		dlist_delete(&call->node);
		answer(call, ANSWER_GONE);
	}
	dlist_foreach_modify(iter, &flying)
	{
		ApiCall    *call = dlist_container(ApiCall, node, iter.cur);

		if (conduit_flight_still_waiting(call->mail->waiter))
			continue;
		dlist_delete(&call->node);
		nflying--;
		answer(call, ANSWER_GONE);
	}
}

void
conduit_api_calls_take(Mail *mail)
{
	ApiCall    *call = MemoryContextAllocZero(TopMemoryContext, sizeof(ApiCall));

	call->base.call = true;
	call->mail = mail;
	dlist_push_tail(&waiting, &call->node);
	forget_left();
	start_waiting();
}

/* Seal what has come and hand it over; false if it cannot be sealed. */
static bool
reply(ApiCall *call)
{
	SealPlace	place = conduit_call_place(&call->mail->request.connection, CALL_RESPONSE);
	Size		length;
	void	   *message;
	bytea	   *sealed;
	SealStatus	status;

	if (!conduit_key_verify_primary())
		return false;
	message = conduit_api_message_from_response(conduit_exchange_response(call->exchange), &length);
	status = conduit_seal(&place, message, length, &sealed);
	conduit_wipe(message, length);
	pfree(message);
	if (status != SEAL_OK)
		return false;
	conduit_mail_reply(call->mail, VARDATA(sealed), VARSIZE(sealed) - VARHDRSZ);
	pfree(sealed);
	return true;
}

void
conduit_api_calls_receive(ExchangeOwner *owner)
{
	ApiCall    *call = (ApiCall *) owner;
	volatile bool replied = false;

	dlist_delete(&call->node);
	nflying--;
	PG_TRY();
	{
		conduit_round_begin();
		replied = reply(call);
		conduit_round_commit();
	}
	PG_CATCH();
	{
		conduit_round_recover("calling an API");
	}
	PG_END_TRY();
	if (replied)
	{
		conduit_exchange_free(call->exchange);
		pfree(call);
	}
	else
		answer(call, ANSWER_VAULT);
	forget_left();
	start_waiting();
}

int
conduit_api_calls_under_way(void)
{
	return nflying;
}

static void
answer_all(dlist_head *calls, RequestAnswer how)
{
	while (!dlist_is_empty(calls))
		answer(dlist_container(ApiCall, node, dlist_pop_head_node(calls)), how);
}

void
conduit_api_calls_withdraw(void)
{
	dlist_mutable_iter iter;

	answer_all(&waiting, ANSWER_GONE);
	dlist_foreach_modify(iter, &flying)
	{
		ApiCall    *call = dlist_container(ApiCall, node, iter.cur);

		if (conduit_exchange_sent(call->exchange))
			continue;
		dlist_delete(&call->node);
		nflying--;
		answer(call, ANSWER_GONE);
	}
}

void
conduit_api_calls_end(void)
{
	answer_all(&flying, ANSWER_LOST);
	nflying = 0;
}
