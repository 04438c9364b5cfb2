import type { NextRequest } from 'next/server';

import { conduit } from '@/lib/conduit';
import { getSession } from '@/lib/session';
import { redirectTo } from '@/lib/settings';

/* Sends somebody to the provider: to connect an account, or, with `connection`, to authorize one again. */
export async function POST(request: NextRequest) {
  const { user } = await getSession();
  if (!user) return redirectTo('/');
  const form = await request.formData();
  const connector = String(form.get('connector'));
  const connection = form.get('connection');
  const { authorize_url: location } = await conduit(user).authorize(connector, connection ? String(connection) : null);
  return new Response(null, { status: 303, headers: { location, 'cache-control': 'no-store' } });
}
