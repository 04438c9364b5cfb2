/*
 * A scripted OAuth server for fault tests. Left alone it is a strict provider:
 * every refresh consumes the refresh token and hands out a new pair. Told to,
 * it breaks in any way a provider or a network can. README.md has the control
 * surface.
 *
 * Wording:
 *    - a family is what one account's grant has brought: all its tokens, of
 *      which at most one refresh token is live
 *    - an endpoint is a path with a script and counts of its own
 *    - a step is one entry of a script, and describes one reply
 */

import crypto from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import { parseArgs } from 'node:util';

import { checkClaims, verifyJwt } from './jwt.js';
import {
  bump, control, dieWithParent, listen, number, readBody, serverOptions, sleep, usage,
} from './lib.js';

let options;
try {
  ({ values: options } = parseArgs({
    options: { ...serverOptions, 'log-limit': { type: 'string', default: '100000' } },
  }));
} catch (error) {
  usage(error.message);
}
dieWithParent(options);
const logLimit = number('log-limit', options['log-limit']);

/* -- State, all of it dropped by /control/reset -- */

let settings;
let client; // the only client let in, or null for any
let granter; // whose key signs JWT bearer grants, or null for any
let jtis; // of the assertions that were taken
let families; // by id
let byRefreshToken; // every refresh token ever handed out → family
let byAccessToken; // live access token → { family, expires }
let spentCodes;
let endpoints; // by path
let everything; // the counts of all endpoints together
let log;
let hanging = new Set();

function reset() {
  for (const wait of hanging) cutSocket(wait.socket);
  hanging = new Set();
  settings = {
    rotate: true, revoke_family_on_reuse: true, kill_access_on_refresh: false, expires_in: 3600,
  };
  client = null;
  granter = null;
  jtis = new Set();
  families = new Map();
  byRefreshToken = new Map();
  byAccessToken = new Map();
  spentCodes = new Set();
  endpoints = new Map();
  everything = newEndpoint();
  log = [];
}

function newEndpoint() {
  return {
    steps: [],
    repeatLast: false,
    counts: {
      total: 0, by_status: {}, by_grant_type: {}, in_flight: 0, max_in_flight: 0, refreshed: 0, reuse: 0,
    },
    /* By refresh token: requests in flight now, and ever. */
    flying: new Map(),
    sent: new Map(),
    maxFlying: 0,
    maxSent: 0,
  };
}

function endpointOf(path) {
  if (!endpoints.has(path)) endpoints.set(path, newEndpoint());
  return endpoints.get(path);
}

/* -- Tokens -- */

const random = () => crypto.randomBytes(24).toString('base64url');

function newFamily({ prefix = '', expires_in: expiresIn = settings.expires_in, scope = 'read write' } = {}) {
  const family = {
    id: families.size + 1, prefix, scope, expiresIn, generation: 1, refresh: null, revoked: false, reuse: 0, access: [],
  };
  families.set(family.id, family);
  return family;
}

function mintRefresh(family) {
  family.refresh = `${family.prefix}rt-${family.id}-${family.generation}-${random()}`;
  byRefreshToken.set(family.refresh, family);
}

/* mintAccess makes an access token and the token response that goes with it. */
function mintAccess(family, withRefresh) {
  const now = Date.now();
  family.access = family.access.filter((token) => byAccessToken.get(token)?.expires > now);
  const token = `${family.prefix}at-${family.id}-${family.generation}-${random()}`;
  family.access.push(token);
  byAccessToken.set(token, { family, expires: now + family.expiresIn * 1000 });
  return {
    access_token: token,
    token_type: 'Bearer',
    expires_in: family.expiresIn,
    ...(withRefresh && { refresh_token: family.refresh }),
    scope: family.scope,
  };
}

function killAccess(family) {
  for (const token of family.access) byAccessToken.delete(token);
  family.access = [];
}

function revokeFamily(family) {
  family.revoked = true;
  killAccess(family);
}

const refusal = (status, error, description) => ({ status, json: { error, error_description: description } });

/* refresh is the strict rotation that everything here is about. */
function refresh(token, endpoint) {
  const family = byRefreshToken.get(token);
  if (!family) return refusal(400, 'invalid_grant', 'unknown refresh token');
  if (family.refresh !== token) {
    family.reuse += 1;
    endpoint.counts.reuse += 1;
    everything.counts.reuse += 1;
    if (settings.revoke_family_on_reuse) revokeFamily(family);
    return refusal(400, 'invalid_grant', 'refresh token already used');
  }
  if (family.revoked) return refusal(400, 'invalid_grant', 'grant revoked');
  family.generation += 1;
  endpoint.counts.refreshed += 1;
  everything.counts.refreshed += 1;
  if (settings.kill_access_on_refresh) killAccess(family);
  if (settings.rotate) mintRefresh(family);
  return { status: 200, json: mintAccess(family, settings.rotate) };
}

/* assertionProblem says what is wrong with a signed assertion; undefined if nothing. */
function assertionProblem(jwt, publicKey, wanted) {
  try {
    checkClaims(verifyJwt(jwt, publicKey).claims, wanted, jtis);
    return undefined;
  } catch (error) {
    return error.message;
  }
}

const here = (request) => `${started.url}${request.path}`;

/* clientRefused tells why the client that is demanded is not the one who asks (RFC 6749 2.3, RFC 7523 2.2). */
function clientRefused({ auth, params, ...request }) {
  if (!client) return undefined;
  if (client.method && auth.method !== client.method) return 'another method';
  if (!client.public_key) {
    return auth.client_id !== client.client_id || (auth.client_secret ?? '') !== (client.client_secret ?? '')
      ? 'client authentication failed' : undefined;
  }
  if (params.client_assertion_type !== 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer') return 'no assertion';
  if (params.client_id !== undefined && params.client_id !== client.client_id) return 'another client_id';
  return assertionProblem(params.client_assertion, client.public_key, {
    issuer: client.issuer ?? client.client_id,
    subject: client.client_id,
    audience: client.audience ?? here(request),
  });
}

/* grantRefused does so for what a JWT bearer grant is signed with (RFC 7523 2.1). */
function grantRefused(request, jwt) {
  if (!granter) return undefined;
  return assertionProblem(jwt, granter.public_key, { ...granter, audience: granter.audience ?? here(request) });
}

const bearerOf = (request) => request.headers.authorization?.match(/^Bearer (.+)$/i)?.[1];

/* renewAnswer: the refresh token is the bearer token, the body is empty but for JSON's sake. */
function renewAnswer(request, endpoint) {
  if (request.raw_body !== '{}') return refusal(400, 'bad_body', 'the body is not {}');
  const answer = refresh(bearerOf(request), endpoint);
  if (answer.status !== 200) return { status: 400, json: { message: 'Invalid refresh token' } };
  return { status: 200, json: { accessToken: answer.json.access_token, refreshToken: answer.json.refresh_token } };
}

/* installationAnswer: an app proves by a JWT that it is itself, and gets a token of one installation. */
function installationAnswer(request) {
  const refused = bearerOf(request) ? grantRefused(request, bearerOf(request)) : 'no JWT';
  if (refused) return { status: 401, json: { message: refused } };
  const { access_token: token, expires_in: lifetime } = mintAccess(newFamily(), false);
  return { status: 201, json: { token, expires_at: new Date(Date.now() + lifetime * 1000).toISOString() } };
}

function tokenAnswer(request, endpoint) {
  const { params } = request;
  if (clientRefused(request)) {
    return {
      ...refusal(401, 'invalid_client', 'client authentication failed'),
      headers: { 'www-authenticate': 'Basic realm="scripted"' },
    };
  }
  switch (params.grant_type) {
    case 'refresh_token':
      return refresh(params.refresh_token, endpoint);
    case 'authorization_code': {
      /* Any code is good, once. */
      if (!params.code || spentCodes.has(params.code)) return refusal(400, 'invalid_grant', 'code already used');
      spentCodes.add(params.code);
      const family = newFamily();
      mintRefresh(family);
      return { status: 200, json: mintAccess(family, true) };
    }
    case 'urn:ietf:params:oauth:grant-type:jwt-bearer': {
      const refused = grantRefused(request, params.assertion);
      return refused ? refusal(400, 'invalid_grant', refused)
        : { status: 200, json: mintAccess(newFamily(), false) };
    }
    case 'client_credentials':
      return { status: 200, json: mintAccess(newFamily(), false) };
    default:
      return refusal(400, 'unsupported_grant_type', `grant_type ${params.grant_type}`);
  }
}

/* revokeToken is RFC 7009's: a refresh token takes its family along, unknown ones are fine too. */
function revokeToken(token) {
  const family = byRefreshToken.get(token);
  if (family) revokeFamily(family);
  else byAccessToken.delete(token);
  return Boolean(family);
}

function userinfoAnswer(request) {
  const found = byAccessToken.get(bearerOf(request));
  if (!found || found.expires <= Date.now()) {
    return {
      ...refusal(401, 'invalid_token', 'no live access token'),
      headers: { 'www-authenticate': 'Bearer error="invalid_token"' },
    };
  }
  return { status: 200, json: { sub: `account-${found.family.id}`, scope: found.family.scope } };
}

/* normalAnswer is what an endpoint says when no script interferes. */
function normalAnswer(request, endpoint) {
  const [, root] = request.path.split('/');
  if (root === 'token') return tokenAnswer(request, endpoint);
  if (root === 'renew') return renewAnswer(request, endpoint);
  if (root === 'installations') return installationAnswer(request);
  if (root === 'userinfo') return userinfoAnswer(request);
  if (root === 'revoke') {
    revokeToken(request.params.token);
    return { status: 200 };
  }
  return refusal(404, 'not_found', `nothing at ${request.path}`);
}

/* -- Requests -- */

function parseParams(req, raw, query) {
  const params = Object.fromEntries(new URLSearchParams(query));
  if (/json/.test(req.headers['content-type'])) {
    try {
      Object.assign(params, JSON.parse(raw));
    } catch {
      /* The log shows the raw body. */
    }
  } else {
    for (const [name, value] of new URLSearchParams(raw)) params[name] = value;
  }
  return params;
}

/* clientAuth tells how the client showed who it is; both halves of Basic are form-encoded (RFC 6749 2.3.1). */
function clientAuth(req, params) {
  const basic = req.headers.authorization?.match(/^Basic (.+)$/i)?.[1];
  if (!basic) {
    const { client_id, client_secret, client_assertion } = params;
    let method = 'none';
    if (client_secret !== undefined) method = 'post';
    else if (client_assertion !== undefined) method = 'assertion';
    return { method, client_id, client_secret };
  }
  const decode = (text) => {
    try {
      return decodeURIComponent(text.replace(/\+/g, ' '));
    } catch {
      return text;
    }
  };
  const [id, ...secret] = Buffer.from(basic, 'base64').toString().split(':');
  return {
    method: params.client_secret === undefined ? 'basic' : 'both',
    client_id: decode(id),
    client_secret: decode(secret.join(':')),
  };
}

let connections = 0;
const connectionIds = new WeakMap();
function connectionId(socket) {
  if (!connectionIds.has(socket)) {
    connections += 1;
    connectionIds.set(socket, connections);
  }
  return connectionIds.get(socket);
}

/* fly counts a request in; what it returns counts it out again, once. */
function fly(endpoint) {
  const both = [endpoint, everything];
  let token;
  let landed = false;
  for (const { counts } of both) {
    counts.total += 1;
    counts.in_flight += 1;
    counts.max_in_flight = Math.max(counts.max_in_flight, counts.in_flight);
  }
  return {
    carries({ grant_type: grantType, refresh_token: refreshToken }) {
      for (const { counts } of both) bump(counts.by_grant_type, grantType ?? 'none');
      if (refreshToken === undefined) return;
      token = refreshToken;
      for (const each of both) {
        const sent = (each.sent.get(token) ?? 0) + 1;
        const flying = (each.flying.get(token) ?? 0) + 1;
        each.sent.set(token, sent);
        each.flying.set(token, flying);
        each.maxSent = Math.max(each.maxSent, sent);
        each.maxFlying = Math.max(each.maxFlying, flying);
      }
    },
    land(status) {
      if (landed) return;
      landed = true;
      for (const each of both) {
        each.counts.in_flight -= 1;
        bump(each.counts.by_status, status);
        if (token !== undefined) {
          const flying = each.flying.get(token) - 1;
          if (flying) each.flying.set(token, flying);
          else each.flying.delete(token);
        }
      }
    },
  };
}

function nextStep(endpoint) {
  const { steps } = endpoint;
  if (steps.length === 0) return {};
  return steps.length === 1 && endpoint.repeatLast ? steps[0] : steps.shift();
}

async function serve(req, res) {
  const mark = req.url.indexOf('?');
  const path = mark < 0 ? req.url : req.url.slice(0, mark);
  const query = mark < 0 ? '' : req.url.slice(mark + 1);
  const endpoint = endpointOf(path);
  const step = nextStep(endpoint);
  const flight = fly(endpoint);
  const request = {
    path,
    query,
    method: req.method,
    headers: req.headers,
    params: {},
    raw_body: '',
    auth: { method: 'none' },
    at: Date.now(),
    connection_id: connectionId(req.socket),
    outcome: null,
  };
  log.push(request);
  if (log.length > logLimit) log.splice(0, Math.ceil(logLimit / 10));

  /* The outcome is the reply's status, 'closed' by a step, or 'gone': the client went first. */
  const land = (outcome) => {
    request.outcome ??= outcome;
    flight.land(request.outcome);
  };
  const { socket } = req;
  res.on('error', () => {});
  res.on('close', () => {
    if (cutByUs.has(socket)) land('closed');
    else land(res.writableFinished ? res.statusCode : 'gone');
  });
  const cut = (how) => {
    land('closed');
    cutSocket(socket, how);
  };

  if (step.close === 'before') {
    cut('resetAndDestroy');
    return;
  }
  try {
    request.raw_body = (await readBody(req)).toString();
  } catch {
    return;
  }
  request.params = parseParams(req, request.raw_body, query);
  request.auth = clientAuth(req, request.params);
  flight.carries(path.startsWith('/renew') ? { grant_type: 'renew', refresh_token: bearerOf(request) } : request.params);

  /* "rotate" is a promise about the order: the token is consumed now, whatever becomes of the reply. */
  let answer = step.rotate && normalAnswer(request, endpoint);
  if (step.delay_ms) await sleep(step.delay_ms);
  if (step.hang) await hang(socket, res, path);
  if (socket.destroyed) return;
  if (step.close === 'after_read') cut();
  else if (step.close === 'reset') cut('resetAndDestroy');
  else {
    answer ||= isWholeReply(step) ? { status: 200 } : normalAnswer(request, endpoint);
    await send(res, step, shape(step, answer), cut);
  }
}

const cutByUs = new WeakSet();
function cutSocket(socket, how = 'destroy') {
  cutByUs.add(socket);
  try {
    socket[how]();
  } catch {
    socket.destroy(); // a TLS socket cannot send a reset
  }
}

/* A step that says what to answer replaces the normal answer; others only bend it. */
function isWholeReply(step) {
  return ['status', 'json', 'body', 'body_base64', 'raw', 'redirect'].some((field) => step[field] !== undefined);
}

/* hang resolves when /control/release or the end of the connection comes. */
function hang(socket, res, path) {
  return new Promise((resolve) => {
    const wait = { socket, path, go: resolve };
    hanging.add(wait);
    res.on('close', () => {
      hanging.delete(wait);
      resolve();
    });
  });
}

/* fill replaces $access_token and the like, which "rotate" has made, in a step's json or body. */
function fill(value, made) {
  if (typeof value === 'string') {
    if (made[value.slice(1)] !== undefined && value[0] === '$') return made[value.slice(1)];
    return value.replace(/\$(\w+)/g, (whole, name) => made[name] ?? whole);
  }
  if (Array.isArray(value)) return value.map((item) => fill(item, made));
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, fill(item, made)]));
  }
  return value;
}

/* shape works a step's fields into the answer: { status, headers, body }. */
function shape(step, answer) {
  /* A refused refresh is told as it is: a script is about what becomes of good ones. */
  const own = answer.status < 400 ? step : {};
  const made = answer.json ?? {};
  const status = own.status ?? (own.redirect ? 302 : answer.status);
  const headers = { ...answer.headers, ...(own.redirect && { location: own.redirect }), ...step.headers };

  let body = Buffer.alloc(0);
  if (own.body_base64 !== undefined) body = Buffer.from(own.body_base64, 'base64');
  else if (own.body !== undefined) body = Buffer.from(String(fill(own.body, made)));
  else if (own.json !== undefined || answer.json) {
    const json = own.json === undefined ? { ...made } : fill(own.json, made);
    Object.assign(json, own.field_overrides);
    for (const field of own.omit ?? []) delete json[field];
    body = Buffer.from(JSON.stringify(json));
  }
  if (step.huge > body.length) body = pad(body, step.huge);

  const named = Object.keys(headers).some((name) => name.toLowerCase() === 'content-type');
  if (!named && body.length) headers['content-type'] = 'application/json';
  return { status, headers, body };
}

/* pad makes a body as long as asked, and keeps a JSON object one. */
function pad(body, size) {
  if (body.length > 2 && body[body.length - 1] === 0x7d) {
    const head = `${body.subarray(0, -1)},"pad":"`;
    const filler = size - Buffer.byteLength(head) - 2;
    if (filler > 0) return Buffer.from(`${head}${'x'.repeat(filler)}"}`);
  }
  return Buffer.concat([body, Buffer.alloc(size - body.length, ' ')]);
}

async function send(res, step, { status, headers, body }, cut) {
  if (step.raw !== undefined) {
    /* Not HTTP, or not quite: straight to the socket, and no keep-alive after that. */
    res.socket.write(step.raw, () => cut('end'));
    return;
  }
  if (!step.chunked) headers = { 'content-length': body.length, ...headers };
  res.writeHead(status, STATUS_CODES[status] ?? 'Scripted', headers);
  if (step.close || step.drip_ms) res.flushHeaders();
  const end = step.close === 'mid_body' ? Math.floor(body.length / 2) : body.length;
  if (step.drip_ms) {
    for (let at = 0; at < end && !res.destroyed; at += 1) {
      res.write(body.subarray(at, at + 1));
      await sleep(step.drip_ms);
    }
  } else if (end && (step.chunked || step.close)) {
    await new Promise((resolve) => { res.write(body.subarray(0, end), resolve); });
  }
  if (step.close === 'mid_body') cut();
  else res.end(step.drip_ms || step.chunked ? undefined : body);
}

/* -- The control surface -- */

const describeFamily = (family) => {
  const now = Date.now();
  return {
    family: family.id,
    prefix: family.prefix,
    generation: family.generation,
    revoked: family.revoked,
    reuse: family.reuse,
    refresh_token: family.revoked ? null : family.refresh,
    access_tokens: family.access.filter((token) => byAccessToken.get(token)?.expires > now),
  };
};

const onPath = (query) => (item) => !query.has('path') || item.path === query.get('path');

function setScript({ path, steps = [], repeat_last: repeatLast = false }) {
  if (!path?.startsWith('/') || !Array.isArray(steps)) throw new Error('a script needs a path and steps');
  Object.assign(endpointOf(path), { steps: [...steps], repeatLast: Boolean(repeatLast) });
}

const controls = {
  'POST issue': ({ count = 1, ...wish }) => Array.from({ length: count }, () => {
    const family = newFamily(wish);
    mintRefresh(family);
    return mintAccess(family, true);
  }),
  'POST script': setScript,
  'POST scripts': ({ scripts }) => scripts.forEach(setScript),
  'POST options': (wish) => {
    const unknown = Object.keys(wish).find((name) => !(name in settings));
    if (unknown) throw new Error(`no option ${unknown}`);
    return Object.assign(settings, wish);
  },
  'POST client': (wish) => { client = wish.client_id ? wish : null; },
  'POST granter': (wish) => { granter = wish.public_key ? wish : null; },
  'POST verify': ({ jwt, public_key: publicKey }) => (Array.isArray(jwt)
    ? jwt.map((each) => verifyJwt(each, publicKey)) : verifyJwt(jwt, publicKey)),
  'POST release': ({ path } = {}) => {
    const waits = [...hanging].filter((wait) => !path || wait.path === path);
    for (const wait of waits) {
      hanging.delete(wait);
      wait.go();
    }
    return { released: waits.length };
  },
  'POST kill-connections': ({ path, all } = {}) => {
    const waits = [...hanging].filter((wait) => !path || wait.path === path);
    const sockets = all ? [...openSockets] : waits.map((wait) => wait.socket);
    for (const socket of sockets) cutSocket(socket);
    return { killed: sockets.length };
  },
  'GET log': (body, query) => log.filter(onPath(query)),
  'GET counts': (body, query) => {
    const path = query.get('path');
    const { counts, maxFlying, maxSent } = path === null ? everything : endpoints.get(path) ?? newEndpoint();
    return {
      ...counts,
      hanging: [...hanging].filter(onPath(query)).length,
      max_in_flight_per_refresh_token: maxFlying,
      max_requests_per_refresh_token: maxSent,
    };
  },
  'GET tokens': (body, query) => {
    const wanted = query.has('refresh_token') ? byRefreshToken.get(query.get('refresh_token'))
      : families.get(Number(query.get('family')));
    if (query.has('refresh_token') || query.has('family')) return wanted ? [describeFamily(wanted)] : [];
    return [...families.values()].map(describeFamily);
  },
  'POST revoke': ({ refresh_token: refreshToken, access_token: accessToken, family, all }) => {
    let doomed = [byRefreshToken.get(refreshToken), families.get(family)].filter(Boolean);
    if (all) doomed = [...families.values()];
    doomed.forEach(revokeFamily);
    return { revoked: doomed.length + (byAccessToken.delete(accessToken) ? 1 : 0) };
  },
  'POST reset': () => reset(),
};

/* -- Start -- */

reset();
const openSockets = new Set();
const server = await listen(
  (req, res) => {
    if (req.url.startsWith('/control/')) {
      openSockets.delete(req.socket); // the driver's own connection is never cut
      control(controls, req, res);
    } else {
      serve(req, res).catch((error) => {
        /* A script with, say, a header that cannot be sent. */
        process.stderr.write(`scripted.js: ${error.message}\n`);
        cutSocket(req.socket);
      });
    }
  },
  { ...options, port: number('port', options.port) },
);
server.on(options.tls ? 'secureConnection' : 'connection', (socket) => {
  openSockets.add(socket);
  socket.on('close', () => openSockets.delete(socket));
});

const { port } = server.address();
const started = { url: `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`, port };
if (options.tls) {
  /* Drivers need not speak TLS: the control surface is there in clear as well. */
  const clear = await listen((req, res) => control(controls, req, res));
  started.control_url = `http://127.0.0.1:${clear.address().port}`;
}
process.stdout.write(`${JSON.stringify(started)}\n`);
