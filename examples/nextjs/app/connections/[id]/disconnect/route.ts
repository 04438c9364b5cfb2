import { conduit } from '@/lib/conduit';
import { getSession } from '@/lib/session';
import { redirectTo } from '@/lib/settings';

/* Destroys the credential here, and revokes it at the provider. */
export async function POST(_request: Request, { params }: { params: Promise<{ id: string }> }) {
  const { user } = await getSession();
  if (user) await conduit(user).disconnect((await params).id);
  return redirectTo('/');
}
