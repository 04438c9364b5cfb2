/*-------------------------------------------------------------------------
 *
 * requests.c
 *	  What sessions ask the worker for.
 *
 *-------------------------------------------------------------------------
 */

#include "worker/round.h"

#include "base/clock.h"
#include "lifecycle/due.h"
#include "lifecycle/key.h"
#include "shared/flight.h"
#include "storage/dsm.h"
#include "vault/keyring.h"
#include "worker/authorizing.h"
#include "worker/api_calls.h"
#include "worker/mail.h"
#include "worker/queue.h"

static void
take_batch_request(const FlightRequest *request, FlightWaiter waiter)
{
	DueRow	   *rows;
	int			n;

	conduit_round_begin();
	n = conduit_due_batch(request->tenant, conduit_now(), request->max_count, &rows);
	conduit_flight_begin_batch(waiter, n);
	for (int i = 0; i < n; i++)
		conduit_queue_add_waiter(conduit_queue_add(&rows[i].connection, rows[i].connector, -1, true, false, true),
								 waiter, true);
	conduit_round_commit();
}

static void
take_keys_request(FlightWaiter waiter)
{
	if (conduit_keyring_get() == NULL)
	{
		conduit_flight_reply(waiter, ANSWER_VAULT);
		return;
	}
	conduit_round_begin();
	conduit_key_commit_check_values();
	conduit_round_commit();
	conduit_flight_reply(waiter, ANSWER_DONE);
}

static void
take_request(const FlightRequest *request, FlightWaiter waiter)
{
	if (request->mail != DSM_HANDLE_INVALID)
		conduit_mail_take(request, waiter);
	else if (request->kind == REQUEST_KEYS)
		take_keys_request(waiter);
	else if (conduit_round.pause != PAUSE_NONE)
		conduit_flight_reply(waiter, conduit_pause_answer());
	else if (request->kind == REQUEST_DUE_BATCH)
		take_batch_request(request, waiter);
	else
		conduit_queue_add_waiter(conduit_queue_add(&request->connection, request->connector,
												   request->generation, true, request->forced, false),
								 waiter, false);
}

/* Several connections at once: the request is answered when the last one is over. */
static void
take_many_request(Mail *mail)
{
	const FlightItem *items = mail->data;
	int			n = mail->length / sizeof(FlightItem);

	if (conduit_round.pause != PAUSE_NONE)
	{
		conduit_mail_answer(mail, conduit_pause_answer());
		return;
	}
	conduit_flight_begin_batch(mail->waiter, n);
	for (int i = 0; i < n; i++)
		conduit_queue_add_waiter(conduit_queue_add(&items[i].connection, items[i].connector, items[i].generation,
												   true, false, false),
								 mail->waiter, true);
	conduit_mail_close(mail);
}

/* A request whose message has come.  If it raises an error, nobody has the mail. */
static void
take_mail(Mail *mail)
{
	switch (mail->request.kind)
	{
		case REQUEST_CALLBACK:
			conduit_authorizing_take(mail);
			break;
		case REQUEST_CALL:
			conduit_api_calls_take(mail);
			break;
		case REQUEST_REFRESH_MANY:
			take_many_request(mail);
			break;
		default:
			conduit_mail_answer(mail, ANSWER_FAILED);
			break;
	}
}

static void
take_all_mail(void)
{
	Mail	   *mail;

	conduit_mail_pump();
	while ((mail = conduit_mail_next()) != NULL)
	{
		PG_TRY();
		{
			take_mail(mail);
		}
		PG_CATCH();
		{
			conduit_round_recover("taking mail");
			conduit_mail_answer(mail, ANSWER_FAILED);
		}
		PG_END_TRY();
	}
}

void
conduit_take_requests(void)
{
	FlightRequest request;
	FlightWaiter waiter;

	while (conduit_flight_take(MyDatabaseId, &request, &waiter))
	{
		PG_TRY();
		{
			take_request(&request, waiter);
		}
		PG_CATCH();
		{
			conduit_round_recover("taking a request");
			conduit_flight_reply(waiter, ANSWER_FAILED);
		}
		PG_END_TRY();
	}
	conduit_guarded(take_all_mail, "taking mail");
}
