-- Where devices that are gone logged in: the owner is no stranger there.
CREATE TABLE login_addresses (
	user_id TEXT NOT NULL,
	address TEXT NOT NULL, -- an IPv4 address, or a /64 of IPv6
	used_ms BIGINT NOT NULL, -- when the device ended
	PRIMARY KEY (user_id, address)
);
CREATE INDEX login_addresses_used ON login_addresses (used_ms);
