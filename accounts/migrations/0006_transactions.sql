-- What tells the transactions of a device from those of an earlier one with the same id; '' for a device whose id the server chose, or
-- that is older than this column.
ALTER TABLE user_devices ADD COLUMN transactions TEXT NOT NULL DEFAULT '';
