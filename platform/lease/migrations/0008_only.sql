-- shares says whether the process counts on being the only one: its incarnation, when not; a negative number, when it may; 0, when the one whose id it
-- took may; the incarnation of another one, or 0 too, with a process of an older version, which does not say.
ALTER TABLE machines ADD COLUMN shares BIGINT NOT NULL DEFAULT 0;
-- beat: the number of the last heartbeat.
ALTER TABLE machines ADD COLUMN beat BIGINT NOT NULL DEFAULT 0;
