"""What a program that uses redis-py does: redis_py.py plain|cluster PORT 2|3|0, 0 for its own choice. Ends with 0 if all answers are right."""

import sys
import time

import redis

mode, port, protocol = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = {"protocol": protocol} if protocol else {}
if mode == "cluster":
    r = redis.RedisCluster(host="127.0.0.1", port=port, **options)
else:
    r = redis.Redis(host="127.0.0.1", port=port, **options)
prefix = f"py:{mode}:{port}:{protocol}:"


def key(name):
    return prefix + str(name)


def same(found, wanted):
    assert found == wanted, f"{found!r} instead of {wanted!r}"


assert r.ping()
for i in range(300):
    same(r.set(key(i), f"value {i}"), True)
for i in range(300):
    same(r.get(key(i)), f"value {i}".encode())
same(r.get(key("missing")), None)
same(r.set(key(0), "x", nx=True), None)
same(r.set(key(0), bytes(range(256)), get=True), b"value 0")
same(r.get(key(0)), bytes(range(256)))

pipeline = r.pipeline(transaction=False)
for i in range(300):
    pipeline.incr(key(f"n{i % 30}"), 2)
    pipeline.get(key(i))
replies = pipeline.execute()
same(replies[0::2], [2 * (i // 30 + 1) for i in range(300)])
same(replies[3::2], [f"value {i}".encode() for i in range(1, 300)])

same(r.set(key("short"), "v", ex=1000), True)
assert 990 <= r.ttl(key("short")) <= 1000
same(r.persist(key("short")), True)
same(r.ttl(key("short")), -1)
same(r.ttl(key("missing")), -2)
same(r.set(key("shorter"), "v", px=1), True)
deadline = time.monotonic() + 30
while r.get(key("shorter")) is not None:
    assert time.monotonic() < deadline, "it does not expire"

tagged = {f"{{{prefix}}}{i}": str(i) for i in range(20)}
same(r.mset(tagged), True)
same(r.mget(list(tagged)), [value.encode() for value in tagged.values()])
same(r.rename(f"{{{prefix}}}0", f"{{{prefix}}}zero"), True)
same(r.delete(*tagged), 19)
same(r.exists(f"{{{prefix}}}zero"), 1)
if mode == "cluster":
    same(r.mget_nonatomic([key(i) for i in range(1, 50)]), [f"value {i}".encode() for i in range(1, 50)])
else:
    same(r.mget([key(i) for i in range(1, 50)]), [f"value {i}".encode() for i in range(1, 50)])

same(r.incrbyfloat(key("f"), 0.5), 0.5)
same(r.append(key("a"), "abc"), 3)
same(r.getrange(key("a"), 1, -1), b"bc")
same(r.getdel(key("a")), b"abc")
same(r.type(key(1)), b"string")

found = list(r.scan_iter(match=prefix + "[0-9]*", count=50))
same(len(found), len(set(found)))
same(set(found), {key(i).encode() for i in range(300)})

try:
    r.execute_command("NOSUCH", "a")
    raise AssertionError("it was answered")
except redis.RedisError as error:  # in a cluster the library itself looks it up
    assert "unknown command" in str(error) or "doesn't exist" in str(error), error
try:
    r.incr(key(1))
    raise AssertionError("it was answered")
except redis.ResponseError as error:
    assert "not an integer" in str(error), error

if mode == "cluster":
    same(len(r.get_nodes()), len({(node.host, node.port) for node in r.get_nodes()}))
    info = r.info(target_nodes=redis.RedisCluster.PRIMARIES)
    assert all(figures["cluster_enabled"] == 1 for figures in info.values()), info
else:
    same(r.info()["loading"], 0)
    assert r.client_list() and r.config_get("maxmemory") and r.dbsize() > 300
    r.client_setname("bob")
    assert r.client_getname() in ("bob", b"bob"), r.client_getname()
print("ok")
