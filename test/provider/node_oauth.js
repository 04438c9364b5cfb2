/*
 * Starts a small service that is protected by the npm package
 * @node-oauth/oauth2-server: a second OAuth server that the authors of Conduit
 * did not write, with other habits than oidc-provider. Its answers have no
 * issuer and no id_token, its scopes are arrays, its clients authenticate in
 * the body, its errors are its own.
 *
 * What is ours: a model in memory and the HTTP around it. Whoever asks for
 * /authorize?...&account=NAME is taken for logged in as NAME and consents;
 * &deny=1 refuses.
 */

import crypto from 'node:crypto';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import {
  bump, control, dieWithParent, listen, number, readBody, sendJson, serverOptions, usage,
} from './lib.js';

const here = path.dirname(fileURLToPath(import.meta.url));

let options;
try {
  ({ values: options } = parseArgs({
    options: {
      ...serverOptions,
      'access-ttl': { type: 'string', default: '3600' },
      'redirect-uri': { type: 'string', multiple: true },
    },
  }));
} catch (error) {
  usage(error.message);
}
dieWithParent(options);

/* Installed here, or where CONDUIT_NODE_MODULES says. */
function loadServer() {
  const elsewhere = process.env.CONDUIT_NODE_MODULES?.replace(/\/node_modules\/?$/, '');
  for (const directory of [elsewhere, here]) {
    if (!directory) continue;
    try {
      return createRequire(path.resolve(directory, 'package.json'))('@node-oauth/oauth2-server');
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND') throw error;
    }
  }
  return usage(`@node-oauth/oauth2-server is not installed; run: cd ${here} && npm ci --ignore-scripts --no-audit --no-fund`);
}

const OAuth2Server = loadServer();
const { Request, Response } = OAuth2Server;
const redirectUris = options['redirect-uri'] ?? ['http://127.0.0.1:8400/callback'];
const client = {
  id: 'second-demo',
  secret: crypto.randomBytes(24).toString('base64url'),
  grants: ['authorization_code', 'refresh_token', 'client_credentials'],
  redirectUris,
};
const codes = new Map();
const access = new Map();
const refresh = new Map();
let counts = { by_grant_type: {}, by_status: {} };

/* What the package asks its host for (its "model"). */
const model = {
  async getClient(id, secret) {
    return id === client.id && (secret === null || secret === client.secret) ? client : false;
  },
  async getUserFromClient() { return { id: 'service' }; },
  async validateScope(user, requestedClient, scope) { return scope ?? ['read']; },
  async saveAuthorizationCode(code, requestedClient, user) {
    const row = { ...code, client: requestedClient, user };
    codes.set(code.authorizationCode, row);
    return row;
  },
  async getAuthorizationCode(code) { return codes.get(code); },
  async revokeAuthorizationCode(code) { return codes.delete(code.authorizationCode); },
  async saveToken(token, requestedClient, user) {
    const row = { ...token, client: requestedClient, user };
    access.set(token.accessToken, row);
    if (token.refreshToken) refresh.set(token.refreshToken, row);
    return row;
  },
  async getAccessToken(token) { return access.get(token); },
  async getRefreshToken(token) { return refresh.get(token); },
  async revokeToken(token) { return refresh.delete(token.refreshToken); },
  async verifyScope(token, scope) { return scope.every((s) => token.scope.includes(s)); },
};

const server = new OAuth2Server({
  model,
  accessTokenLifetime: number('access-ttl', options['access-ttl']),
  requireClientAuthentication: { authorization_code: true },
});

/* The package's own request and response, from and to node's. */
async function packageRequest(req, url) {
  const body = Object.fromEntries(new URLSearchParams((await readBody(req)).toString()));
  return new Request({
    headers: req.headers, method: req.method, query: Object.fromEntries(url.searchParams), body,
  });
}

function answer(res, response, fallback) {
  const body = JSON.stringify(response.body && Object.keys(response.body).length > 0 ? response.body : fallback ?? {});
  res.writeHead(response.status ?? 200, { ...response.headers, 'content-type': 'application/json' });
  res.end(body);
}

const routes = {
  async '/authorize'(request, response, url) {
    const account = url.searchParams.get('account') ?? 'alice';
    const code = await server.authorize(request, response, {
      allowEmptyState: false,
      authenticateHandler: { handle: () => ({ id: account }) },
    });
    return { code: code.authorizationCode };
  },
  async '/token'(request, response) {
    bump(counts.by_grant_type, request.body.grant_type ?? 'none');
    await server.token(request, response);
  },
  async '/me'(request, response) {
    const token = await server.authenticate(request, response);
    return { user: { login: token.user.id, name: `${token.user.id} of the second server` }, scope: token.scope };
  },
};

const controls = {
  'GET counts': () => counts,
  'POST reset': () => { counts = { by_grant_type: {}, by_status: {} }; },
  'POST revoke': ({ refresh_token: token }) => ({ revoked: refresh.delete(token) ? 1 : 0 }),
  'POST revoke-all': () => { const revoked = refresh.size; refresh.clear(); return { revoked }; },
};

async function handle(req, res) {
  const url = new URL(req.url, 'http://127.0.0.1');
  if (url.pathname.startsWith('/control/')) {
    await control(controls, req, res);
    return;
  }
  const route = routes[url.pathname];
  if (!route) {
    sendJson(res, 404, { message: 'no such page' });
    return;
  }
  try {
    if (url.searchParams.get('deny')) {
      const back = new URL(url.searchParams.get('redirect_uri'));
      back.searchParams.set('error', 'access_denied');
      back.searchParams.set('state', url.searchParams.get('state'));
      res.writeHead(302, { location: back.href });
      res.end();
      return;
    }
    const request = await packageRequest(req, url);
    const response = new Response({});
    let result;
    try {
      result = await route(request, response, url);
    } catch (error) {
      response.status = error.code ?? 500;
      response.body = response.body ?? { error: error.name, error_description: error.message };
      result = { error: error.name, error_description: error.message };
    }
    bump(counts.by_status, response.status ?? 200);
    answer(res, response, result);
  } catch (error) {
    if (!res.destroyed) sendJson(res, 500, { message: error.message });
  }
}

const listener = await listen(handle, { port: Number(options.port), tls: options.tls, cert: options.cert, key: options.key });
const { port } = listener.address();
const base = `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`;
process.stdout.write(`${JSON.stringify({
  url: base,
  port,
  authorization_endpoint: `${base}/authorize`,
  token_endpoint: `${base}/token`,
  account_endpoint: `${base}/me`,
  client_id: client.id,
  client_secret: client.secret,
  redirect_uri: redirectUris[0],
})}\n`);
