import 'server-only';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import { createHash, randomBytes } from 'node:crypto';

import { settings } from './settings';

/* OpenID Connect, authorization code with PKCE: who somebody is, and nothing else. */

interface Metadata {
  issuer: string;
  authorization_endpoint: string;
  token_endpoint: string;
  jwks_uri: string;
}

let metadata: Promise<Metadata> | undefined;

async function fetchMetadata(): Promise<Metadata> {
  const found: Metadata = await (await fetch(`${settings.issuer}/.well-known/openid-configuration`)).json();
  if (found.issuer !== settings.issuer) throw new Error('the metadata are of another issuer');
  return found;
}

/* What failed once is tried again. */
function discover(): Promise<Metadata> {
  metadata ??= fetchMetadata().catch((error) => { metadata = undefined; throw error; });
  return metadata;
}

const redirectUri = () => new URL('/login/callback', settings.appUrl).href;

export async function startLogin() {
  const random = () => randomBytes(32).toString('base64url');
  const login = { state: random(), nonce: random(), verifier: random() };
  const url = new URL((await discover()).authorization_endpoint);
  url.search = new URLSearchParams({
    response_type: 'code',
    client_id: settings.clientId,
    redirect_uri: redirectUri(),
    scope: 'openid',
    state: login.state,
    nonce: login.nonce,
    code_challenge: createHash('sha256').update(login.verifier).digest('base64url'),
    code_challenge_method: 'S256',
  }).toString();
  return { url: url.href, login };
}

/* Returns the subject that has logged in; the provider's answer is dropped. */
export async function finishLogin(params: URLSearchParams, login: { state: string; nonce: string; verifier: string }) {
  const { issuer, token_endpoint: tokenEndpoint, jwks_uri: jwksUri } = await discover();
  const code = params.get('code');
  if (!code || params.get('state') !== login.state || (params.get('iss') ?? issuer) !== issuer) {
    throw new Error('not the answer to this log-in');
  }
  const reply = await fetch(tokenEndpoint, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'authorization_code',
      code,
      redirect_uri: redirectUri(),
      code_verifier: login.verifier,
      client_id: settings.clientId,
      client_secret: settings.clientSecret,
    }),
    cache: 'no-store',
  });
  if (!reply.ok) throw new Error(`the log-in's code was not taken: ${reply.status}`);
  const { id_token: idToken } = await reply.json();
  const { payload } = await jwtVerify(idToken, createRemoteJWKSet(new URL(jwksUri)), {
    issuer, audience: settings.clientId, requiredClaims: ['sub', 'exp', 'nonce'],
  });
  if (payload.nonce !== login.nonce) throw new Error('not the answer to this log-in');
  return payload.sub!;
}
