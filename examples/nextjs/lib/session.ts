import 'server-only';
import { getIronSession } from 'iron-session';
import { cookies } from 'next/headers';
import { redirect } from 'next/navigation';

import { settings } from './settings';

/* What the cookie holds, sealed: nothing that opens anything elsewhere without the API key. */
export interface SessionData {
  user?: { name: string; conduitSession: string };
  login?: { state: string; nonce: string; verifier: string };
}

export async function getSession() {
  return getIronSession<SessionData>(await cookies(), {
    cookieName: 'session',
    password: settings.sessionPassword,
    ttl: 7 * 24 * 3600,
    cookieOptions: { httpOnly: true, sameSite: 'lax', secure: settings.appUrl.startsWith('https:'), path: '/' },
  });
}

/* The user who is logged in; others are sent to the first page. */
export async function requireUser() {
  const { user } = await getSession();
  if (!user) redirect('/');
  return user;
}
