-- The address at which a password or a registration made the device; unlike seen_ip, a token does not change it.
ALTER TABLE user_devices ADD COLUMN login_ip TEXT NOT NULL DEFAULT '';
