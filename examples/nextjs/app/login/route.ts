import { startLogin } from '@/lib/login';
import { getSession } from '@/lib/session';

export async function POST() {
  const session = await getSession();
  const { url, login } = await startLogin();
  session.login = login;
  await session.save();
  return new Response(null, { status: 303, headers: { location: url, 'cache-control': 'no-store' } });
}
