import type { NextRequest } from 'next/server';

import { conduit, ConduitError } from '@/lib/conduit';
import { getSession } from '@/lib/session';
import { redirectTo } from '@/lib/settings';

/* Where the provider sends people back to. Conduit checks the state and whose it is, and exchanges the code. */
export async function GET(request: NextRequest) {
  const { user } = await getSession();
  if (!user) return redirectTo('/');
  const { state, code, ...params } = Object.fromEntries(request.nextUrl.searchParams);
  try {
    const id = await conduit(user).authorized(state ?? '', code ?? null, params);
    return redirectTo(`/connections/${id}`);
  } catch (error) {
    if (!(error instanceof ConduitError)) throw error;
    console.error('authorization failed:', error.status, error.message, error.details ?? '');
    return redirectTo(error.details?.startsWith('denied') ? '/?problem=denied'
      : error.details?.startsWith('account_mismatch') ? '/?problem=account' : '/?problem=authorization');
  }
}
