import { conduit, ConduitError } from '@/lib/conduit';
import { getSession } from '@/lib/session';

/* A file's bytes. Conduit asks the provider for a presigned URL and fetches it; the URL is not seen here either. */
export async function GET(_request: Request, { params }: { params: Promise<{ id: string; file: string }> }) {
  const { user } = await getSession();
  if (!user) return new Response(null, { status: 401 });
  const { id, file } = await params;
  try {
    const reply = await conduit(user).preview(id, `/files/${encodeURIComponent(file)}/link`, 'url');
    return new Response(reply.body, {
      headers: {
        'content-type': reply.headers.get('content-type') ?? 'application/octet-stream',
        'cache-control': 'private, no-store',
        /* Others have made the file: whatever is in it, it runs nothing here. */
        'content-security-policy': "sandbox; default-src 'none'; style-src 'unsafe-inline'",
        'x-content-type-options': 'nosniff',
      },
    });
  } catch (error) {
    if (!(error instanceof ConduitError)) throw error;
    return new Response(null, { status: error.status });
  }
}
