/*
 * Starts the npm package oidc-provider, an OAuth and OpenID Connect server
 * that the authors of Conduit did not write, on a loopback port.
 *
 * What is ours: configuration, a store in memory, and a control surface
 * wrapped around the provider. Login and consent are the provider's own
 * development pages: any account name is let in, with any password.
 */

import crypto from 'node:crypto';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

import {
  bump, control, dieWithParent, listen, number, serverOptions, sleep, usage,
} from './lib.js';

const here = path.dirname(fileURLToPath(import.meta.url));

/* Standard output carries one JSON line and nothing else; the provider's notices go to stderr. */
console.log = console.error;
console.info = console.error;

let options;
try {
  ({ values: options } = parseArgs({
    options: {
      ...serverOptions,
      'access-ttl': { type: 'string', default: '60' },
      'client-public-key': { type: 'string' },
      'client-secret': { type: 'string' },
      'redirect-uri': { type: 'string', multiple: true },
    },
  }));
} catch (error) {
  usage(error.message);
}
dieWithParent(options);

const initialTtl = number('access-ttl', options['access-ttl']);
const redirectUris = options['redirect-uri'] ?? ['http://127.0.0.1:8400/callback'];
const random = () => crypto.randomBytes(32).toString('base64url');
const longTtl = 180 * 24 * 3600;

/*
 * The package may be installed elsewhere, where the checkout is not writable:
 * CONDUIT_NODE_MODULES is a directory that holds node_modules, or that
 * node_modules itself. (NODE_PATH has no meaning for ES modules.)
 */
async function loadProvider() {
  const elsewhere = process.env.CONDUIT_NODE_MODULES?.replace(/\/node_modules\/?$/, '');
  for (const directory of [elsewhere, here]) {
    if (!directory) continue;
    let file;
    try {
      file = createRequire(path.resolve(directory, 'package.json')).resolve('oidc-provider');
    } catch {
      continue;
    }
    return (await import(pathToFileURL(file))).default;
  }
  return usage(`oidc-provider is not installed; run: cd ${here} && npm ci --ignore-scripts --no-audit --no-fund`);
}

/*
 * The provider's own store in memory forgets the oldest of a thousand entries,
 * which would look like revoked tokens to a test with many connections. Nothing
 * needs to expire here: the provider checks the times in the payload itself.
 */
const tables = new Map();
const grantMembers = new Map();

/* Every token and code that was ever handed out: an opaque one is its own id. */
const secrets = { AccessToken: [], RefreshToken: [], AuthorizationCode: [] };

class MemoryStore {
  constructor(model) {
    if (!tables.has(model)) tables.set(model, new Map());
    this.rows = tables.get(model);
  }

  async upsert(id, payload) {
    if (!this.rows.has(id)) secrets[payload.kind]?.push(id);
    this.rows.set(id, payload);
    if (payload.grantId) {
      if (!grantMembers.has(payload.grantId)) grantMembers.set(payload.grantId, []);
      grantMembers.get(payload.grantId).push([this.rows, id]);
    }
  }

  async find(id) { return this.rows.get(id); }

  async findByUid(uid) { return [...this.rows.values()].find((row) => row.uid === uid); }

  async findByUserCode() { return undefined; } // the device flow is off

  async consume(id) { this.rows.get(id).consumed = Math.floor(Date.now() / 1000); }

  async destroy(id) { this.rows.delete(id); }

  async revokeByGrantId(grantId) { revokeTokens(grantId); }
}

function revokeTokens(grantId) {
  for (const [rows, id] of grantMembers.get(grantId) ?? []) rows.delete(id);
  grantMembers.delete(grantId);
}

/* What the control surface sets and reads. */
const emptyCounts = () => ({
  total: 0, by_grant_type: {}, by_status: {}, errors: {}, in_flight: 0, max_in_flight: 0,
});
let counts = emptyCounts();
let endpoints = {};
let accessTtl = initialTtl;
let delayMs = 0;
let hang = { on: false, after: false };
let hanging = [];

function setHang(value) {
  hang = value;
  if (!hang.on) {
    for (const go of hanging) go();
    hanging = [];
  }
}

const controls = {
  'GET counts': () => ({ ...counts, hanging: hanging.length, endpoints }),
  'GET secrets': () => secrets,
  'POST revoke-grants': ({ account }) => {
    const grants = tables.get('Grant') ?? new Map();
    const doomed = [...grants.keys()].filter((id) => grants.get(id).accountId === account);
    for (const id of doomed) {
      revokeTokens(id);
      grants.delete(id);
    }
    return { revoked: doomed.length };
  },
  'POST access-ttl': ({ seconds }) => { accessTtl = Number(seconds); },
  'POST delay': ({ ms }) => { delayMs = Number(ms); },
  'POST hang': ({ on, after_processing: after }) => setHang({ on: Boolean(on), after: Boolean(after) }),
  'POST reset': () => {
    counts = { ...emptyCounts(), in_flight: counts.in_flight, max_in_flight: counts.in_flight };
    endpoints = {};
    accessTtl = initialTtl;
    delayMs = 0;
    setHang({ on: false, after: false });
  },
};

/* watchToken counts, delays and hangs the requests to the token endpoint. */
async function watchToken(ctx, next) {
  const wait = () => hang.on && new Promise((resolve) => { hanging.push(resolve); });
  counts.total += 1;
  counts.in_flight += 1;
  counts.max_in_flight = Math.max(counts.max_in_flight, counts.in_flight);
  try {
    if (!hang.after) {
      await wait();
      /* Whoever hung up meanwhile has never reached the provider: nothing may be consumed. */
      if (ctx.req.socket.destroyed) {
        ctx.respond = false;
        return;
      }
    }
    await next();
    bump(counts.by_grant_type, ctx.oidc?.body?.grant_type ?? 'none');
    bump(counts.by_status, ctx.status);
    if (hang.after) await wait();
    if (delayMs) await sleep(delayMs);
  } finally {
    counts.in_flight -= 1;
  }
}

const Provider = await loadProvider();

let answer; // the provider's handler, which exists only once the port and thus the issuer is known
const handler = (req, res) => (req.url.startsWith('/control/') ? control(controls, req, res) : answer(req, res));
const server = await listen(handler, { ...options, port: number('port', options.port) });
const { port } = server.address();
const issuer = `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`;

const secret = options['client-secret'] ?? random();
const postSecret = random();
const client = {
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
  response_types: ['code'],
  redirect_uris: redirectUris,
};

/* Given its public key in PEM form, a client that signs (RFC 7523). */
const publicKey = options['client-public-key'];
const signingClients = publicKey === undefined ? [] : [{
  ...client,
  client_id: 'conduit-demo-signed',
  token_endpoint_auth_method: 'private_key_jwt',
  jwks: { keys: [crypto.createPublicKey(publicKey).export({ format: 'jwk' })] },
}];

const provider = new Provider(issuer, {
  adapter: MemoryStore,
  clients: [
    {
      ...client,
      client_id: 'conduit-demo',
      client_secret: secret,
      token_endpoint_auth_method: 'client_secret_basic',
    },
    {
      ...client,
      client_id: 'conduit-demo-post',
      client_secret: postSecret,
      token_endpoint_auth_method: 'client_secret_post',
    },
    ...signingClients,
  ],
  scopes: ['openid', 'offline_access', 'profile', 'email'],
  claims: {
    openid: ['sub'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
  },
  async findAccount(ctx, id) {
    return {
      accountId: id,
      claims: async () => ({
        sub: id,
        name: `Test account ${id}`,
        preferred_username: id,
        email: `${id}@example.test`,
        email_verified: true,
      }),
    };
  },
  cookies: { keys: [random()] },
  jwks: {
    keys: [crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' })],
  },
  pkce: { required: () => true },
  /* By default confidential clients keep a refresh token for most of its life. */
  rotateRefreshToken: () => true,
  ttl: {
    AccessToken: () => accessTtl,
    ClientCredentials: () => accessTtl,
    RefreshToken: () => longTtl,
    Grant: () => longTtl,
    Session: () => longTtl,
    Interaction: () => 3600,
    IdToken: () => 3600,
  },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    rpInitiatedLogout: { enabled: false },
  },
});

provider.use(async (ctx, next) => {
  await (ctx.path === '/token' && ctx.method === 'POST' ? watchToken(ctx, next) : next());
  if (ctx.oidc?.route && ctx.respond !== false) {
    endpoints[ctx.oidc.route] ??= {};
    bump(endpoints[ctx.oidc.route], ctx.status);
  }
});
provider.on('grant.error', (ctx, error) => bump(counts.errors, error.error_detail ?? error.error));
provider.on('server_error', (ctx, error) => console.error(`server error: ${error.message}`));
answer = provider.callback();

process.stdout.write(`${JSON.stringify({
  issuer,
  url: issuer,
  port,
  authorization_endpoint: `${issuer}/auth`,
  token_endpoint: `${issuer}/token`,
  userinfo_endpoint: `${issuer}/me`,
  revocation_endpoint: `${issuer}/token/revocation`,
  introspection_endpoint: `${issuer}/token/introspection`,
  ...(options.tls && { control_url: await controlUrl() }),
  client_id: 'conduit-demo',
  client_secret: secret,
  post_client_id: 'conduit-demo-post',
  post_client_secret: postSecret,
  redirect_uri: redirectUris[0],
})}\n`);

/* controlUrl opens the control surface in clear as well, for drivers that do not speak TLS. */
async function controlUrl() {
  const clear = await listen((req, res) => control(controls, req, res));
  return `http://127.0.0.1:${clear.address().port}`;
}
