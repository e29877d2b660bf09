"""The tables of the embedded directory. Raise VERSION with every change to them.

A person has no table: it is the set of accounts that share a `person`, which is the id of one of
them. Their public id comes from the first of them, so that merging keeps the older person's.
"""

APPLICATION_ID = 0x53484F50  # "SHOP": `file` and we can tell the file from another's
VERSION = 2

SCHEMA = """
CREATE TABLE pseudonym_key (
    fingerprint BLOB NOT NULL
);

CREATE TABLE platforms (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    views INTEGER NOT NULL DEFAULT 0,
    carts INTEGER NOT NULL DEFAULT 0,
    buys INTEGER NOT NULL DEFAULT 0,
    returns INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE categories (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    views INTEGER NOT NULL DEFAULT 0,
    carts INTEGER NOT NULL DEFAULT 0,
    buys INTEGER NOT NULL DEFAULT 0,
    returns INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE brands (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    pseudonym BLOB NOT NULL UNIQUE CHECK (length(pseudonym) = 16),
    platform INTEGER NOT NULL REFERENCES platforms (id),
    person INTEGER NOT NULL REFERENCES accounts (id)
);
CREATE INDEX accounts_of_person ON accounts (person);

CREATE TABLE links (
    account INTEGER NOT NULL REFERENCES accounts (id),
    other INTEGER NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL,
    confidence REAL NOT NULL,
    linked_us INTEGER NOT NULL,
    PRIMARY KEY (account, other, kind),
    CHECK (account < other)
) WITHOUT ROWID;

-- Each attribute is that of the newest event that carried it; *_us is that event's time. The last
-- three columns are the sums of features.HABIT.
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    platform INTEGER NOT NULL REFERENCES platforms (id),
    item_id TEXT NOT NULL,
    title TEXT,
    brand TEXT,
    category TEXT,
    price REAL,
    title_us INTEGER,
    brand_us INTEGER,
    category_us INTEGER,
    price_us INTEGER,
    brand_code INTEGER REFERENCES brands (id),
    category_code INTEGER REFERENCES categories (id),
    views INTEGER NOT NULL DEFAULT 0,
    carts INTEGER NOT NULL DEFAULT 0,
    buys INTEGER NOT NULL DEFAULT 0,
    returns INTEGER NOT NULL DEFAULT 0,
    priced INTEGER NOT NULL DEFAULT 0,
    log_price INTEGER NOT NULL DEFAULT 0,
    log_quantity INTEGER NOT NULL DEFAULT 0,
    UNIQUE (platform, item_id)
);

-- Stored in the order in which a person's history is read: newest first, ties by key.
CREATE TABLE events (
    person INTEGER NOT NULL REFERENCES accounts (id),
    time_us INTEGER NOT NULL,
    key BLOB NOT NULL UNIQUE CHECK (length(key) = 16),
    account INTEGER NOT NULL REFERENCES accounts (id),
    item INTEGER NOT NULL REFERENCES items (id),
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    price REAL,
    quantity INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL,
    PRIMARY KEY (person, time_us DESC, key DESC)
) WITHOUT ROWID;

CREATE TABLE item_vectors (
    encoder TEXT NOT NULL,
    digest BLOB NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (encoder, digest)
);
"""
