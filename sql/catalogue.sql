-- The built-in connectors: make puts sql/catalogue.json in the place of the
-- marked line.

SELECT conduit.settle_catalogue($catalogue$
@catalogue@
$catalogue$);
