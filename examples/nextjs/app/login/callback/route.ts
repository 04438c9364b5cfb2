import type { NextRequest } from 'next/server';

import { conduit, openSession } from '@/lib/conduit';
import { finishLogin } from '@/lib/login';
import { getSession } from '@/lib/session';
import { redirectTo } from '@/lib/settings';

export async function GET(request: NextRequest) {
  const session = await getSession();
  const { login, user: former } = session;
  delete session.login;
  await session.save();
  if (!login) return redirectTo('/');

  let name: string;
  try {
    name = await finishLogin(request.nextUrl.searchParams, login);
  } catch (error) {
    console.error('log-in failed:', error instanceof Error ? error.message : 'unknown error');
    return redirectTo('/?problem=login');
  }
  /* A new session at each log-in, so that nobody can be given one that somebody else knows. */
  if (former) await conduit(former).closeSession();
  session.user = { name, conduitSession: await openSession(name) };
  await session.save();
  return redirectTo('/');
}
