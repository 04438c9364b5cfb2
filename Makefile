# Conduit: OAuth token broker and credential vault inside PostgreSQL.
#
#   make && make install && make installcheck
#
# installcheck starts temporary servers of its own and cannot run as root;
# ./test/run.sh takes care of that, and of what the tests need.

EXTENSION = conduit
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(srcdir)/conduit.control)

MODULE_big = conduit
OBJS = src/conduit.o \
	src/base/base64url.o src/base/clock.o src/base/json.o src/base/json_array.o src/base/report.o src/base/settings.o \
	src/vault/digest.o src/vault/keyring.o src/vault/seal.o src/vault/secret.o \
	src/shared/area.o src/shared/flight.o src/shared/last_use.o src/shared/limiter.o src/shared/mailbox.o \
	src/shared/roster.o src/shared/stats.o src/shared/wraps.o \
	src/provider/account.o src/provider/api_auth.o src/provider/api_message.o src/provider/api_request.o \
	src/provider/assertion.o src/provider/authorize_url.o src/provider/classify.o src/provider/connector.o \
	src/provider/connector_check.o src/provider/connector_field.o src/provider/connector_part.o \
	src/provider/connector_url.o src/provider/discovery.o src/provider/egress.o src/provider/event_set.o \
	src/provider/exchange.o src/provider/get_request.o src/provider/http.o src/provider/http_memory.o \
	src/provider/http_transfer.o src/provider/known_error.o src/provider/outgoing.o src/provider/revoke_request.o \
	src/provider/sized_text.o src/provider/token_expiry.o src/provider/token_extra.o src/provider/token_grant.o \
	src/provider/token_object.o src/provider/token_path.o src/provider/token_request.o src/provider/token_response.o \
	src/provider/token_time.o src/provider/url.o src/provider/url_template.o \
	src/lifecycle/adoption.o src/lifecycle/alert.o src/lifecycle/argument.o src/lifecycle/authorize.o \
	src/lifecycle/authorize_callback.o src/lifecycle/authorize_errand.o src/lifecycle/authorize_settle.o \
	src/lifecycle/authorize_state.o src/lifecycle/breaker.o src/lifecycle/call.o src/lifecycle/catalogue.o \
	src/lifecycle/claim.o src/lifecycle/client.o src/lifecycle/commit.o src/lifecycle/connection.o src/lifecycle/connection_index.o \
	src/lifecycle/credential.o src/lifecycle/direct.o src/lifecycle/discover.o src/lifecycle/due.o src/lifecycle/event.o \
	src/lifecycle/export.o src/lifecycle/failure.o src/lifecycle/handover.o src/lifecycle/health.o \
	src/lifecycle/import.o src/lifecycle/import_match.o src/lifecycle/import_record.o src/lifecycle/key.o \
	src/lifecycle/parked.o src/lifecycle/rate.o src/lifecycle/redirect.o src/lifecycle/refresh_call.o \
	src/lifecycle/renewal.o src/lifecycle/request.o src/lifecycle/revocation.o src/lifecycle/revocation_errand.o src/lifecycle/rewrap.o \
	src/lifecycle/rows.o src/lifecycle/schedule.o src/lifecycle/send.o src/lifecycle/settle.o src/lifecycle/store.o \
	src/lifecycle/storing.o src/lifecycle/storm.o src/lifecycle/throttle.o src/lifecycle/vend.o \
	src/lifecycle/vend_many.o src/lifecycle/wait.o \
	src/door/answer.o src/door/api_key.o src/door/deprovision.o src/door/guard.o src/door/identity.o src/door/jwk.o src/door/jwt.o \
	src/door/jwt_key.o src/door/session.o src/door/token.o src/door/trusted_caller.o \
	src/worker/api_calls.o src/worker/authorizing.o src/worker/chores.o src/worker/drain.o src/worker/errands.o \
	src/worker/landing.o src/worker/launcher.o src/worker/leave.o src/worker/mail.o src/worker/pause.o src/worker/queue.o \
	src/worker/requests.o src/worker/revoking.o src/worker/round.o src/worker/takeoff.o src/worker/worker.o

# The parts of the extension script, in order.
SQL_PARTS = schema profile connector client connection credential bulk authorize refresh rate request event api_key session identity key health catalogue facade_functions facade finish

DATA_built = conduit--$(EXTVERSION).sql
DATA = $(wildcard $(srcdir)/sql/conduit--*--*.sql)
EXTRA_CLEAN = test/unit/*.o test/unit/*.so test/unit/*.bc

PG_CPPFLAGS = -I$(srcdir)/src -DCONDUIT_VERSION='"$(EXTVERSION)"'
SHLIB_LINK = -lcurl -lssl -lcrypto

# Each suite starts a server of its own, with a keyring made for the occasion,
# to which its tests may add keys.
TEST_OPTS = --inputdir=$(srcdir)/test --no-locale --encoding=UTF8
TEST_DIR = $(CURDIR)/tmp_check
REGRESS = setup extension catalogue connection credential errors privileges keyring
REGRESS_OPTS = $(TEST_OPTS) --temp-config=$(TEST_DIR)/regress/conduit.conf --outputdir=$(TEST_DIR)/regress --temp-instance=$(TEST_DIR)/regress/instance
ISOLATION = store_store store_vend create_create revoke_store rewrap register_drop
ISOLATION_OPTS = $(TEST_OPTS) --temp-config=$(TEST_DIR)/isolation/conduit.conf --load-extension=pgcrypto --load-extension=conduit --outputdir=$(TEST_DIR)/isolation --temp-instance=$(TEST_DIR)/isolation/instance
REGRESS_PREP = $(TEST_DIR)/regress/conduit.conf $(TEST_DIR)/isolation/conduit.conf
TAP_TESTS = 1
PROVE_TESTS = $(srcdir)/test/t/*.pl

srcdir ?= .
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The catalogue is data, which its part of the script takes in.
conduit--$(EXTVERSION).sql: $(SQL_PARTS:%=$(srcdir)/sql/%.sql) $(srcdir)/sql/catalogue.json $(srcdir)/conduit.control
	cat $(SQL_PARTS:%=$(srcdir)/sql/%.sql) | \
	sed -e '/^@catalogue@$$/r $(srcdir)/sql/catalogue.json' -e '/^@catalogue@$$/d' > $@

# Headers are few and widely included: any change rebuilds all.
$(OBJS): $(wildcard $(srcdir)/src/*/*.h) $(srcdir)/conduit.control

# A keyring is outside of the server's data directory and its owner's alone.
.PHONY: $(REGRESS_PREP)
$(REGRESS_PREP): $(srcdir)/test/conduit.conf
	mkdir -p $(@D)
	rm -f $(@D)/keyring
	umask 077 && echo "k1:`dd if=/dev/urandom bs=32 count=1 2>/dev/null | base64`" >$(@D)/keyring
	{ cat $<; echo "conduit.keyring_file = '$(@D)/keyring'"; } >$@
