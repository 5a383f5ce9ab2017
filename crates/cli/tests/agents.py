"""Keeps data as redis-sre-agent and Auto SRE keep theirs, and reads it as they do: with Python's `cryptography`.

    agents.py redis write PORT COUNT       instances, clusters and threads; every third value still in plaintext
    agents.py redis dump PORT              everything there is but the secret values, and the seconds left, as text
    agents.py redis check PORT COUNT       opens every value; says how many
    agents.py sqlite write|dump|check FILE COUNT     the same for the agent framework's sessions and events
    agents.py postgres write|dump|check URL COUNT    the same, through psql

    agents.py PROGRAM churn WHERE COUNT N OF         changes every OFth record from the Nth, one after the other, until stdin ends: now
                                                     with secrets sealed anew, now as a program that writes back the whole document
                                                     that it read before; says "RECORD VERSION SECRET" of each that is stored, where
                                                     SECRET is the version that brought the secret
    agents.py PROGRAM versions WHERE COUNT           opens every record; says "RECORD VERSION SECRET"
    agents.py PROGRAM odd WHERE COUNT                adds records with names as odd as the store takes
    agents.py PROGRAM wreck WHERE COUNT              seals the odd ones of the main records under the key that is given, cuts off the
                                                     value of the first
    agents.py PROGRAM raw WHERE COUNT                every record, as JSON
"""
import base64, json, os, random, re, select, socket, sqlite3, subprocess, sys, time
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

b64 = lambda raw: base64.b64encode(raw).decode()


def master():
    return AESGCM(base64.b64decode(os.environ["REDIS_SRE_MASTER_KEY"]))


def seal(secret):
    dek, nonce, dek_nonce = AESGCM.generate_key(bit_length=256), os.urandom(12), os.urandom(12)
    envelope = {
        "version": "v1",
        "ciphertext": b64(AESGCM(dek).encrypt(nonce, secret.encode(), None)),
        "nonce": b64(nonce),
        "wrapped_dek": b64(master().encrypt(dek_nonce, dek, None)),
        "dek_nonce": b64(dek_nonce),
    }
    return base64.b64encode(json.dumps(envelope).encode()).decode()


def unseal(text):
    parts = {name: base64.b64decode(value) for name, value in json.loads(base64.b64decode(text)).items() if name != "version"}
    dek = master().decrypt(parts["dek_nonce"], parts["wrapped_dek"], None)
    return AESGCM(dek).decrypt(parts["nonce"], parts["ciphertext"], None).decode()


class Redis:
    def __init__(self, port):
        self.file = socket.create_connection(("127.0.0.1", int(port))).makefile("rwb")

    def __call__(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        self.file.flush()
        return self.reply()

    def reply(self):
        line = self.file.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise SystemExit(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest


url = lambda i: f"redis://app:hunter2-{i}-ü@cache-{i}:6379/0"
admin = lambda i: f"admin \"{i}\" \\ battery-staple"


def instance(i, plain):
    keep = (lambda secret: secret) if plain else seal
    text = json.dumps({
        "id": f"redis-{i}", "name": f"Orders {i}", "connection_url": keep(url(i)), "environment": "production",
        "admin_password": keep(admin(i)) if i % 4 else None, "extension_secrets": {"rest": {"token": "readable"}, "old": "**********"},
        "status": "healthy", "version": 7,
    })
    # What no program that parses and writes anew would keep.
    return text[:-1] + ',  "ratio":1e3, "share" : 2.50, "name": "twice"}'


def write_redis(port, count):
    redis = Redis(port)
    for i in range(int(count)):
        data = instance(i, plain=i % 3 == 0)
        redis("HSET", f"sre_instances:redis-{i}", "name", f"Orders {i}", "environment", "production", "usage", "cache",
              "instance_type", "oss", "cluster_id", "", "user_id", "", "status", "healthy", "created_at", "1700000000.5",
              "updated_at", "1700000001.5", "data", data)
        redis("HSET", f"sre_clusters:c-{i}", "name", f"c{i}", "data", json.dumps({"admin_password": seal(admin(i)), "name": f"c{i}"}))
        redis("SET", f"sre:thread:{i}:instances", "[" + data + ", " + instance(i, plain=False) + "]", "EX", 86400)
    redis("SET", "sre:thread:1:context", "not ours")


def keys(redis):
    cursor, found = b"0", set()
    while True:
        cursor, page = redis("SCAN", cursor, "COUNT", 1000)
        found.update(page)
        if cursor == b"0":
            return sorted(found)


SECRET = re.compile(r'("(?:connection_url|admin_password)": )"(?:[^"\\]|\\.)*"')


def dump_redis(port):
    redis = Redis(port)
    for key in keys(redis):
        kind = redis("TYPE", key)
        # The order of a hash's fields is the server's own affair.
        fields = sorted(redis("HKEYS", key)) if kind == b"hash" else []
        value = [name + b"=" + redis("HGET", key, name) for name in fields] or [redis("GET", key)]
        print(key.decode(errors="backslashreplace"), redis("TTL", key) > 80000, [SECRET.sub(r'\1…', part.decode()) for part in value])


def check_redis(port, count):
    redis, opened = Redis(port), 0
    for i in range(int(count)):
        text = redis("HGET", f"sre_instances:redis-{i}", "data").decode()
        for doc in [json.loads(text), *json.loads(redis("GET", f"sre:thread:{i}:instances"))]:
            assert unseal(doc["connection_url"]) == url(i)
            assert (unseal(doc["admin_password"]) == admin(i)) if i % 4 else doc["admin_password"] is None
            assert doc["extension_secrets"]["old"] == "**********"
            opened += 1 + (i % 4 > 0)
        assert unseal(json.loads(redis("HGET", f"sre_clusters:c-{i}", "data"))["admin_password"]) == admin(i)
        opened += 1
    print(opened)


def churn(count, first, step, made, read, store):
    """Writes until nobody wants it any more. What is said is stored; at most one more is stored and not said."""
    # Later writers have later versions.
    mine, version, secrets = range(int(first), int(count), int(step)), time.time_ns() // 1000, {}
    while not select.select([sys.stdin], [], [], 0)[0]:
        i, version = random.choice(mine), version + 1
        if i in secrets and random.random() < 0.5:
            doc = read(i)
            time.sleep(random.random() / 50)
        else:
            doc, secrets[i] = made(i, version), version
        store(i, json.dumps({**doc, "touched": version}))
        print(i, version, secrets[i], flush=True)


def churn_redis(port, count, first, step):
    redis = Redis(port)
    churn(count, first, step,
          lambda i, version: {"id": f"redis-{i}", "connection_url": seal(f"{url(i)}#{version}"), "admin_password": seal(admin(i))},
          lambda i: json.loads(redis("HGET", f"sre_instances:redis-{i}", "data")),
          lambda i, doc: redis("HSET", f"sre_instances:redis-{i}", "data", doc))


def versions_redis(port, count):
    redis = Redis(port)
    for i in range(int(count)):
        doc = json.loads(redis("HGET", f"sre_instances:redis-{i}", "data"))
        secret, _, version = unseal(doc["connection_url"]).partition("#")
        assert secret == url(i) and (doc["admin_password"] is None or unseal(doc["admin_password"]) == admin(i))
        print(i, doc.get("touched", 0), version or 0)


NAMES = ["", " ", "'; drop table sessions; --", 'quo"te', "new\r\nline", "tab\t\\back", "ü\U0001f511", "%s {slot} *?[a]", "x" * 128]


def odd_redis(port, count):
    redis = Redis(port)
    for name in [*(name.encode() for name in NAMES), b"\xff\xfe", b"\0", b"x" * 5000]:
        redis("HSET", b"sre_instances:" + name, "name", "odd", "data", json.dumps({"connection_url": seal("odd")}))


def wreck_redis(port, count):
    redis = Redis(port)
    for i in range(1, int(count), 2):
        redis("HSET", f"sre_instances:redis-{i}", "data", instance(i, plain=False))
    text = redis("HGET", "sre_instances:redis-0", "data").decode()
    redis("HSET", "sre_instances:redis-0", "data", re.sub(r'("connection_url": "[^"]*)[^"]{9}"', r'\1"', text))


def raw_redis(port, count):
    redis, found = Redis(port), {}
    for key in keys(redis):
        if key.endswith(b":context"):
            continue
        value = redis("HGET", key, "data") if redis("TYPE", key) == b"hash" else redis("GET", key)
        found[key.decode("latin-1")] = value.decode()
    print(json.dumps(found))


SCHEMA = """
create table sessions (app_name varchar(128) not null, user_id varchar(128) not null, id varchar(128) not null, state text not null,
    create_time varchar(40), update_time varchar(40), primary key (app_name, user_id, id));
create table events (id varchar(128) not null, app_name varchar(128) not null, user_id varchar(128) not null,
    session_id varchar(128) not null, invocation_id varchar(256), event_data text, primary key (id, app_name, user_id, session_id));
"""
quoted = lambda text: "'" + text.replace("'", "''") + "'"
BORN = 1_700_000_000


def rows(count):
    fernet = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])
    yield SCHEMA
    for i in range(int(count)):
        token = fernet.encrypt_at_time(f"ya29.token-{i}".encode(), BORN + i).decode()
        state = f'{{"user_email": "u{i}@example.com",  "_user_access_token": "{token}", "n":1e3, "share" : 2.50}}'
        event = json.dumps({"author": "user", "actions": {"state_delta": {"_user_access_token": token, "x": "ü"}}})
        values = ["app", f"u'{i}", f"s-{i}", state, "2026-01-01", "2026-01-02"]
        yield f"insert into sessions values ({', '.join(map(quoted, values))});"
        values = [f"e-{i}", "app", f"u'{i}", f"s-{i}", "inv", event]
        yield f"insert into events values ({', '.join(map(quoted, values))});"


def sqlite(path):
    database = sqlite3.connect(path, timeout=30)
    return lambda script: [database.executescript(script), database.commit()], lambda query: database.execute(query).fetchall()


class Psql:
    """One session for many statements."""
    def __init__(self, where):
        self.process = subprocess.Popen(["psql", "-qAt", "-v", "ON_ERROR_STOP=1", where], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, statement):
        self.process.stdin.write(statement.encode() + b";\n\\echo stored\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"stored\n"


def postgres(where):
    def psql(script):
        run = subprocess.run(["psql", "-qAt", "-v", "ON_ERROR_STOP=1", where], input=script.encode(), capture_output=True)
        assert run.returncode == 0, run.stderr
        return run.stdout.decode()
    query = lambda text: [json.loads(line) for line in psql(f"select json_build_array({text[7:].replace(' from', ') from', 1)};").splitlines()]
    return psql, query


def sql(open_database, act, where, count):
    script, query = open_database(where)
    if act == "write":
        script("\n".join(rows(count)))
    if act == "dump":
        hide = lambda text: re.sub(r"gAAAAA[\w=-]+", "…", text)
        for row in query("select app_name, user_id, id, state, create_time, update_time from sessions order by id"):
            print([hide(part) for part in row])
        for row in query("select id, app_name, user_id, session_id, invocation_id, event_data from events order by id"):
            print([hide(part) for part in row])
    if act == "check":
        fernet, opened = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"]), 0
        for name, state in query("select id, state from sessions"):
            tokens = [json.loads(state)["_user_access_token"]]
            (event,), = query(f"select event_data from events where session_id = '{name}'")
            tokens.append(json.loads(event)["actions"]["state_delta"]["_user_access_token"])
            for token in tokens:
                i = int(name[2:])
                assert fernet.decrypt(token.encode()) == f"ya29.token-{i}".encode()
                assert fernet.extract_timestamp(token.encode()) == BORN + i
                opened += 1
        print(opened)


def churn_sql(program, where, count, first, step):
    fernet = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])
    script, query = {"sqlite": sqlite, "postgres": postgres}[program](where)
    run = Psql(where) if program == "postgres" else script
    token = lambda i, version: fernet.encrypt_at_time(f"ya29.token-{i}#{version}".encode(), BORN + i).decode()
    churn(count, first, step,
          lambda i, version: {"_user_access_token": token(i, version), "user_email": f"u{i}@example.com"},
          lambda i: json.loads(query(f"select state from sessions where id = 's-{i}'")[0][0]),
          lambda i, state: run(f"update sessions set state = {quoted(state)} where id = 's-{i}'"))


def versions_sql(program, where):
    fernet = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])
    for name, text in {"sqlite": sqlite, "postgres": postgres}[program](where)[1]("select id, state from sessions"):
        state = json.loads(text)
        token = state["_user_access_token"].encode()
        secret, _, version = fernet.decrypt(token).decode().partition("#")
        assert secret == f"ya29.token-{name[2:]}" and fernet.extract_timestamp(token) == BORN + int(name[2:])
        print(name[2:], state.get("touched", 0), version or 0)


def odd_sql(script):
    token = lambda: Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"]).encrypt(b"odd").decode()
    for name in NAMES:
        values = ["app", name, name, json.dumps({"_user_access_token": token()}), "2026-01-01", "2026-01-02"]
        script(f"insert into sessions values ({', '.join(map(quoted, values))});")


def wreck_sql(script, query, count):
    fernet = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])
    for i in range(1, int(count), 2):
        state = json.dumps({"_user_access_token": fernet.encrypt(b"unknown").decode()})
        script(f"update sessions set state = {quoted(state)} where id = 's-{i}';")
    (state,), = query("select state from sessions where id = 's-0'")
    state = re.sub(r'(gAAAAA[^"]*)[^"]{9}', r"\1", state)
    script(f"update sessions set state = {quoted(state)} where id = 's-0';")


def raw_sql(query):
    rows = [["session", *row] for row in query("select app_name, user_id, id, state from sessions")]
    rows += [["event", *row] for row in query("select app_name, id, session_id, event_data from events")]
    print(json.dumps({json.dumps(row[:4]): row[4] for row in rows}))


program, act, where, *count = sys.argv[1:]
if program == "redis":
    acts = {"write": write_redis, "dump": dump_redis, "check": check_redis, "churn": churn_redis, "versions": versions_redis,
            "odd": odd_redis, "wreck": wreck_redis, "raw": raw_redis}
    acts[act](where, *count)
elif act == "churn":
    churn_sql(program, where, *count)
elif act == "versions":
    versions_sql(program, where)
elif act in ("odd", "wreck", "raw"):
    script, query = {"sqlite": sqlite, "postgres": postgres}[program](where)
    {"odd": lambda: odd_sql(script), "wreck": lambda: wreck_sql(script, query, *count), "raw": lambda: raw_sql(query)}[act]()
else:
    sql({"sqlite": sqlite, "postgres": postgres}[program], act, where, *(count or ["0"]))
