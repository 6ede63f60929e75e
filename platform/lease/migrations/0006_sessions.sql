-- lock_key: the advisory lock that the machine's session holds; lock_run: the run of the database in which it was taken.
ALTER TABLE machines ADD COLUMN lock_key BIGINT NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN lock_run TEXT NOT NULL DEFAULT '';
