import 'server-only';
import { redirect } from 'next/navigation';

import { settings } from './settings';

/*
 * The facade of Conduit: POST /rpc/<function>. The API key says that this is
 * our server, the session says for whom it asks. No function that is called
 * here returns a token, and the key has no scope for one that does.
 */

export type Status = 'ACTIVE' | 'NEEDS_REAUTH' | 'REVOKED';

export interface Connection {
  id: string;
  connector: string;
  account: string | null;
  account_label: string | null;
  status: Status;
  status_reason: string | null;
  scopes: string[] | null;
  has_credential: boolean;
  expires_at: string | null;
  last_refreshed_at: string | null;
  generation: number;
  created_at: string;
}

export interface Connector {
  slug: string;
  name: string;
}

export interface Answer<T> {
  status: number;
  reply: T;
}

/* An error of Conduit: `message` is one of a few constant texts, `details` begins with a code. */
export class ConduitError extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly details: string | null) {
    super(message);
  }

  get needsReauthorization() {
    return this.status === 409 && this.message === 'connection needs re-authorization';
  }
}

async function send(name: string, args: object, identity: Record<string, string>): Promise<Response> {
  const reply = await fetch(`${settings.conduitUrl}/rpc/${name}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-conduit-key': settings.conduitApiKey, ...identity },
    body: JSON.stringify(args),
    cache: 'no-store',
  });
  if (!reply.ok) {
    const { code, message, details } = await reply.json().catch(() => ({}));
    throw new ConduitError(reply.status, code ?? '', message ?? reply.statusText, details ?? null);
  }
  return reply;
}

async function call<T>(name: string, args: object, identity: Record<string, string>): Promise<T> {
  const reply = await send(name, args, identity);
  const text = await reply.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/* At log-in there is no session yet: the key alone may open one for anybody. */
export function openSession(owner: string): Promise<string> {
  return call('conduit_open_session', {}, { 'x-conduit-owner': owner });
}

/* What can be done in a user's session. */
export function conduit(user: { conduitSession: string }) {
  const identity = { 'x-conduit-session': user.conduitSession };
  const rpc = <T>(name: string, args: object = {}) => call<T>(name, args, identity);
  return {
    connectors: async () => (await rpc<Connector[]>('conduit_connectors'))
      .filter(({ slug }) => settings.connectors.includes(slug)),
    connections: () => rpc<Connection[]>('conduit_list_connections'),
    connection: (id: string) => rpc<Connection>('conduit_get_connection', { connection_id: id }),
    disconnect: (id: string) => rpc<void>('conduit_delete_connection', { connection_id: id }),
    authorize: (connector: string, id: string | null) => rpc<{ authorize_url: string }>('conduit_authorize', {
      connector, connection_id: id, redirect_uri: new URL('/connect/callback', settings.appUrl).href,
    }),
    authorized: (state: string, code: string | null, params: object) => rpc<string>('conduit_authorize_callback', {
      state, code, params,
    }),
    get: <T>(id: string, path: string) => rpc<Answer<T>>('conduit_request', { connection_id: id, method: 'GET', path }),
    preview: (id: string, path: string, urlPath: string) => send('conduit_preview', {
      connection_id: id, path, url_path: urlPath,
    }, { ...identity, accept: '*/*' }),
    closeSession: () => rpc<void>('conduit_close_session', { session_key: user.conduitSession }),
  };
}

/* What a page does with an error: a session that is over leads to the log-in, nothing there to a 404. */
export function leave(error: unknown): never {
  if (error instanceof ConduitError && error.status === 401) redirect('/logout?over');
  throw error;
}
