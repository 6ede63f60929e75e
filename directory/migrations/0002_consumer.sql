-- The index goes on from where it was: its positions are those of a consumer now, in leases.
INSERT INTO leases (name, machine, incarnation, epoch, pos)
  SELECT 'consumer/search/' || SUBSTR(CAST(10000 + shard AS TEXT), 2), -1, 0, 0, pos FROM search_positions WHERE TRUE
  ON CONFLICT (name) DO NOTHING;
