-- starting: the machine is registered and takes no work yet.
ALTER TABLE machines ADD COLUMN starting BOOLEAN NOT NULL DEFAULT FALSE;
