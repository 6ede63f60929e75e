-- Display names in lower case, to be searched. value is the field of the profile that words was made of: a row whose
-- value is another counts no more.
CREATE TABLE profile_names (
    user_id TEXT PRIMARY KEY,
    value   TEXT NOT NULL,
    words   TEXT NOT NULL
);
