"""The tables of the embedded directory. Raise VERSION with every change to them.

A person has no table: it is the set of accounts that share a `person`, which is the id of one of
them. Their public id is the `code` of the first of them, so that merging keeps the older person's.
"""

APPLICATION_ID = 0x53484F50  # "SHOP": `file` and we can tell the file from another's
VERSION = 3

SCHEMA = """
CREATE TABLE pseudonym_keys (
    id INTEGER PRIMARY KEY,
    fingerprint BLOB NOT NULL UNIQUE
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

-- key: that of the pseudonym. code: what names the person while the account is their first. weak:
-- whether any of its links is less than certain. refused: a bit for each purpose, in their order.
-- AUTOINCREMENT: the number of an account that was erased is not given to another.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pseudonym BLOB NOT NULL UNIQUE CHECK (length(pseudonym) = 16),
    key INTEGER NOT NULL REFERENCES pseudonym_keys (id),
    code BLOB NOT NULL UNIQUE CHECK (length(code) = 16),
    platform INTEGER NOT NULL REFERENCES platforms (id),
    person INTEGER NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    weak INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    created_us INTEGER NOT NULL
);
CREATE INDEX accounts_of_person ON accounts (person);

CREATE TABLE links (
    account INTEGER NOT NULL REFERENCES accounts (id),
    other INTEGER NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL,
    confidence REAL NOT NULL,
    source TEXT NOT NULL,
    linked_us INTEGER NOT NULL,
    PRIMARY KEY (account, other, kind),
    CHECK (account < other)
) WITHOUT ROWID;
CREATE INDEX links_of_other ON links (other);

-- Only ever appended to, but for the entries of people who are erased. person, other_person: codes.
-- account is on the side of person, other on that of other_person.
CREATE TABLE journal (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    change TEXT NOT NULL,
    person BLOB NOT NULL,
    other_person BLOB,
    account INTEGER,
    other INTEGER,
    kind TEXT,
    confidence REAL,
    source TEXT
);
CREATE INDEX journal_of_account ON journal (account);
CREATE INDEX journal_of_other ON journal (other);

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
    key BLOB NOT NULL CHECK (length(key) = 16),
    account INTEGER NOT NULL REFERENCES accounts (id),
    item INTEGER NOT NULL REFERENCES items (id),
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    price REAL,
    quantity INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL,
    PRIMARY KEY (person, time_us DESC, key DESC)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_of_key ON events (key);

-- Events that no person can have caused, by the account they are said to be of.
CREATE TABLE quarantine (
    key BLOB PRIMARY KEY CHECK (length(key) = 16),
    account INTEGER NOT NULL REFERENCES accounts (id),
    time_us INTEGER NOT NULL,
    item_id TEXT NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    price REAL,
    quantity INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX quarantine_of_account ON quarantine (account);

CREATE TABLE item_vectors (
    encoder TEXT NOT NULL,
    digest BLOB NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (encoder, digest)
);
"""
