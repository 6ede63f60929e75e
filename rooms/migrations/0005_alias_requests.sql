-- The request that made an alias: when it is done again because its answer was lost in the fleet, it is answered as it was. That of
-- another request for the same alias is refused.
ALTER TABLE aliases ADD COLUMN request TEXT NOT NULL DEFAULT '';
