/*-------------------------------------------------------------------------
 *
 * mailbox.c
 *	  Requests and replies that are larger than a slot.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/mailbox.h"

#include "storage/shm_mq.h"
#include "utils/memutils.h"

#define MAGIC			0x636e6474
#define QUEUE_SIZE		(64 * 1024)

/* At the head of the segment; the queues follow. */
typedef struct MailHeader
{
	uint32		magic;
} MailHeader;

typedef enum MailQueue
{
	QUEUE_REQUEST,
	QUEUE_REPLY
} MailQueue;

#define QUEUE_OFFSET(queue) (MAXALIGN(sizeof(MailHeader)) + (queue) * QUEUE_SIZE)
#define SEGMENT_SIZE	QUEUE_OFFSET(QUEUE_REPLY + 1)

struct Mailbox
{
	MemoryContext context;
	dsm_segment *segment;
	shm_mq_handle *out;
	shm_mq_handle *in;
	MailStatus	sent;
	MailStatus	received;
	void	   *message;		/* that came */
	Size		length;
};

static shm_mq *
queue_of(dsm_segment *segment, MailQueue queue)
{
	return (shm_mq *) ((char *) dsm_segment_address(segment) + QUEUE_OFFSET(queue));
}

/* Take this process's ends of the two queues. */
static Mailbox *
make_mailbox(dsm_segment *segment, MailQueue out, MailQueue in, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "conduit mailbox", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Mailbox    *mailbox = palloc0(sizeof(Mailbox));

	mailbox->context = context;
	mailbox->segment = segment;
	shm_mq_set_sender(queue_of(segment, out), MyProc);
	shm_mq_set_receiver(queue_of(segment, in), MyProc);
	mailbox->out = shm_mq_attach(queue_of(segment, out), segment, NULL);
	mailbox->in = shm_mq_attach(queue_of(segment, in), segment, NULL);
	mailbox->sent = mailbox->received = MAIL_PENDING;
	MemoryContextSwitchTo(old);
	return mailbox;
}

Mailbox *
conduit_mailbox_open(void)
{
	dsm_segment *segment = dsm_create(SEGMENT_SIZE, DSM_CREATE_NULL_IF_MAXSEGMENTS);
	MailHeader *header;

	if (segment == NULL)
		return NULL;
	header = dsm_segment_address(segment);
	header->magic = MAGIC;
	(void) shm_mq_create(queue_of(segment, QUEUE_REQUEST), QUEUE_SIZE);
	(void) shm_mq_create(queue_of(segment, QUEUE_REPLY), QUEUE_SIZE);
	return make_mailbox(segment, QUEUE_REQUEST, QUEUE_REPLY, CurrentMemoryContext);
}

dsm_handle
conduit_mailbox_handle(const Mailbox *mailbox)
{
	return dsm_segment_handle(mailbox->segment);
}

Mailbox *
conduit_mailbox_attach(dsm_handle handle)
{
	dsm_segment *segment = dsm_attach(handle);
	const MailHeader *header;

	if (segment == NULL)
		return NULL;

	/* A handle that was given up may be another segment's by now. */
	header = dsm_segment_address(segment);
	if (dsm_segment_map_length(segment) < SEGMENT_SIZE || header->magic != MAGIC ||
		shm_mq_get_receiver(queue_of(segment, QUEUE_REQUEST)) != NULL)
	{
		dsm_detach(segment);
		return NULL;
	}
	dsm_pin_mapping(segment);
	return make_mailbox(segment, QUEUE_REPLY, QUEUE_REQUEST, TopMemoryContext);
}

static MailStatus
status_of(shm_mq_result result)
{
	return result == SHM_MQ_SUCCESS ? MAIL_DONE :
		result == SHM_MQ_WOULD_BLOCK ? MAIL_PENDING : MAIL_GONE;
}

MailStatus
conduit_mailbox_send(Mailbox *mailbox, const void *data, Size length)
{
	Assert(length <= CONDUIT_MAX_MAIL);
	if (mailbox->sent == MAIL_PENDING)
		mailbox->sent = status_of(shm_mq_send(mailbox->out, length, data, true, true));
	return mailbox->sent;
}

MailStatus
conduit_mailbox_receive(Mailbox *mailbox, const void **data, Size *length)
{
	if (mailbox->received == MAIL_PENDING)
	{
		void	   *message;
		Size		size;

		mailbox->received = status_of(shm_mq_receive(mailbox->in, &size, &message, true));
		if (mailbox->received == MAIL_DONE)
		{
			/* It may lie in the queue itself. */
			mailbox->message = MemoryContextAlloc(mailbox->context, size + 1);
			memcpy(mailbox->message, message, size);
			mailbox->length = size;
		}
	}
	if (mailbox->received == MAIL_DONE)
	{
		*data = mailbox->message;
		*length = mailbox->length;
	}
	return mailbox->received;
}

void
conduit_mailbox_close(Mailbox *mailbox)
{
	dsm_detach(mailbox->segment);
	MemoryContextDelete(mailbox->context);
}
