/*
 * Walks the authorization-code flow with PKCE as a browser and its user would:
 * follows redirects, keeps cookies, fills in the login form, agrees to the
 * consent form. The redirect back to the application is not followed, so
 * nothing has to listen there: its parameters are read from the address.
 *
 * Prints the token endpoint's answer as it came; with --authorize-only it
 * drives the authorize URL of somebody else and prints the callback's
 * parameters as JSON.
 */

import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { parseArgs } from 'node:util';

import { usage } from './lib.js';

let o;
try {
  ({ values: o } = parseArgs({
    options: {
      info: { type: 'string' },
      issuer: { type: 'string' },
      'client-id': { type: 'string' },
      'client-secret': { type: 'string' },
      'redirect-uri': { type: 'string' },
      auth: { type: 'string', default: 'basic' },
      scope: { type: 'string', default: 'openid offline_access profile email' },
      account: { type: 'string', default: 'alice' },
      deny: { type: 'boolean', default: false },
      ca: { type: 'string' },
      'authorize-only': { type: 'boolean', default: false },
      url: { type: 'string' },
    },
  }));
} catch (error) {
  usage(error.message);
}

const ca = o.ca && fs.readFileSync(o.ca);

/* send makes one request and resolves to { status, headers, text }. */
function send(url, { method = 'GET', headers = {}, body } = {}) {
  return new Promise((resolve, reject) => {
    const { request } = url.protocol === 'https:' ? https : http;
    const req = request(url, { method, headers, ca, agent: false }, (res) => {
      let text = '';
      res.setEncoding('utf8');
      res.on('data', (part) => { text += part; });
      res.on('end', () => resolve({ status: res.statusCode, headers: res.headers, text }));
      res.on('error', reject);
    });
    req.on('error', reject);
    req.end(body);
  });
}

/* The cookies of one browser at one host; paths matter, as the provider has one set per interaction. */
let cookies = [];

function keepCookies(url, lines = []) {
  for (const line of lines) {
    const [pair, ...attributes] = line.split(/;\s*/);
    const name = pair.slice(0, pair.indexOf('='));
    const attribute = (key) => attributes.find((a) => a.toLowerCase().startsWith(`${key}=`))?.slice(key.length + 1);
    const path = attribute('path') ?? url.pathname;
    const dead = Date.parse(attribute('expires') ?? '') < Date.now();
    cookies = cookies.filter((cookie) => cookie.name !== name || cookie.path !== path);
    if (!dead) cookies.push({ name, path, pair });
  }
}

function cookieHeader(url) {
  const sent = cookies.filter(({ path }) => url.pathname === path
    || url.pathname.startsWith(path.endsWith('/') ? path : `${path}/`));
  return sent.length ? { cookie: sent.map((cookie) => cookie.pair).join('; ') } : {};
}

const unescapeHtml = (text) => text.replace(/&quot;/g, '"').replace(/&#39;/g, "'")
  .replace(/&lt;/g, '<').replace(/&gt;/g, '>').replace(/&amp;/g, '&');
const attributeOf = (tag, name) => {
  const found = tag.match(new RegExp(`\\s${name}="([^"]*)"`));
  return found && unescapeHtml(found[1]);
};

/* submit returns the request that a person's click on the page's only form would make. */
function submit(page, url) {
  const form = page.match(/<form[^>]*>/)?.[0];
  if (!form) {
    const title = page.match(/<title>([^<]*)/)?.[1] ?? 'no title';
    throw new Error(`a page without a form at ${url.origin}${url.pathname} (${title.trim()})`);
  }
  if (o.deny) {
    const away = page.match(/<a[^>]*href="([^"]*\/abort)"/);
    if (!away) throw new Error(`no way to refuse on the page at ${url.origin}${url.pathname}`);
    return { url: new URL(unescapeHtml(away[1]), url) };
  }
  const fields = new URLSearchParams();
  for (const input of page.match(/<input[^>]*>/g) ?? []) {
    const type = attributeOf(input, 'type');
    const filledIn = { text: o.account, password: 'any password will do' }[type];
    fields.append(attributeOf(input, 'name'), filledIn ?? attributeOf(input, 'value') ?? '');
  }
  return {
    url: new URL(attributeOf(form, 'action'), url),
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: fields.toString(),
  };
}

/* authorize drives an authorize URL until it leads back to its redirect_uri. */
async function authorize(authorizeUrl) {
  const goal = new URL(authorizeUrl.searchParams.get('redirect_uri') ?? usage('the authorize URL has no redirect_uri'));
  let step = { url: authorizeUrl };
  for (let hops = 0; hops < 20; hops += 1) {
    const { url } = step;
    const reply = await send(url, { ...step, headers: { ...step.headers, ...cookieHeader(url) } });
    keepCookies(url, reply.headers['set-cookie']);
    if (reply.status >= 300 && reply.status < 400) {
      const next = new URL(reply.headers.location, url);
      if (next.origin === goal.origin && next.pathname === goal.pathname) {
        return Object.fromEntries(next.searchParams);
      }
      step = { url: next };
    } else if (reply.status === 200) {
      step = submit(reply.text, url);
    } else {
      throw new Error(`status ${reply.status} from ${url.origin}${url.pathname}: ${
        reply.text.match(/<strong>([^<]*)<\/strong>\s*:[^<]*/g)?.join(', ').replace(/<[^>]*>/g, '') ?? ''}`);
    }
  }
  throw new Error('too many redirects and forms');
}

/* connect is the application's part: start the flow, check the callback, exchange the code. */
async function connect() {
  const infoText = o.info === '-' ? fs.readFileSync(0, 'utf8') : o.info;
  const info = infoText ? JSON.parse(infoText) : {};
  const prefix = o.auth === 'post' ? 'post_' : '';
  const need = (option, value) => value ?? usage(`--${option} or --info is needed`);
  const issuer = need('issuer', o.issuer ?? info.issuer);
  const clientId = need('client-id', o['client-id'] ?? info[`${prefix}client_id`]);
  const clientSecret = need('client-secret', o['client-secret'] ?? info[`${prefix}client_secret`]);
  const redirectUri = need('redirect-uri', o['redirect-uri'] ?? info.redirect_uri);

  const metadata = JSON.parse((await send(new URL(`${issuer}/.well-known/openid-configuration`))).text);
  const verifier = crypto.randomBytes(32).toString('base64url');
  const state = crypto.randomBytes(16).toString('base64url');

  const url = new URL(metadata.authorization_endpoint);
  url.search = new URLSearchParams({
    response_type: 'code',
    client_id: clientId,
    redirect_uri: redirectUri,
    scope: o.scope,
    state,
    /* Without it an OpenID provider must leave out offline_access, and so the refresh token. */
    prompt: 'consent',
    code_challenge: crypto.createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  });
  const callback = await authorize(url);
  if (callback.error) throw new Error(`refused: ${callback.error}: ${callback.error_description ?? ''}`);
  if (callback.state !== state) throw new Error('the callback has another state');
  if (callback.iss !== undefined && callback.iss !== issuer) throw new Error('the callback is from another issuer');

  const fields = {
    grant_type: 'authorization_code', code: callback.code, redirect_uri: redirectUri, code_verifier: verifier,
  };
  const headers = { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' };
  if (o.auth === 'post') {
    Object.assign(fields, { client_id: clientId, client_secret: clientSecret });
  } else {
    /* RFC 6749 2.3.1: both halves are form-encoded before they are joined. */
    const encode = (text) => new URLSearchParams({ '': text }).toString().slice(1);
    headers.authorization = `Basic ${Buffer.from(`${encode(clientId)}:${encode(clientSecret)}`).toString('base64')}`;
  }
  const reply = await send(new URL(metadata.token_endpoint), {
    method: 'POST', headers, body: new URLSearchParams(fields).toString(),
  });
  if (reply.status !== 200) throw new Error(`the token endpoint answered ${reply.status}: ${reply.text}`);
  return reply.text;
}

try {
  if (o['authorize-only']) {
    const callback = await authorize(new URL(o.url ?? usage('--authorize-only needs --url URL')));
    process.stdout.write(`${JSON.stringify(callback)}\n`);
  } else {
    process.stdout.write(`${await connect()}\n`);
  }
} catch (error) {
  process.stderr.write(`connect.js: ${error.message}\n`);
  process.exit(1);
}
