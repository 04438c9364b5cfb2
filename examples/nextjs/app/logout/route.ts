import type { NextRequest } from 'next/server';

import { conduit } from '@/lib/conduit';
import { getSession } from '@/lib/session';
import { redirectTo } from '@/lib/settings';

export async function POST() {
  const session = await getSession();
  if (session.user) await conduit(session.user).closeSession();
  session.destroy();
  return redirectTo('/');
}

/* Where a page sends somebody whose session Conduit does not know any more; others stay logged in. */
export async function GET(request: NextRequest) {
  const session = await getSession();
  if (session.user && request.nextUrl.searchParams.has('over')) {
    const over = await conduit(session.user).connections().then(() => false, () => true);
    if (over) session.destroy();
  }
  return redirectTo('/');
}
