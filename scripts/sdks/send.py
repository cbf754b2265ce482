"""Sends numbered events with Segment's Python SDK: python send.py HOST WRITE_KEY EVENTS USERS"""

import json
import sys

from segment.analytics import Client

host, write_key, events, users = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
failed = 0


def on_error(error, batch):
    global failed
    failed += len(batch)
    print(f"python sdk: {error}", file=sys.stderr)


client = Client(write_key, host=host, on_error=on_error, gzip=True, max_queue_size=events + 1)
for seq in range(events):
    user_id, mark = f"python-{seq % users}", {"sdk": "python", "seq": seq}
    if seq < users:
        client.identify(user_id, {**mark, "plan": "pro"})
    elif seq % 50 == 0:
        client.group(user_id, "acme", mark)
    elif seq % 25 == 0:
        client.page(user_id, "Docs", "Pricing", mark)
    else:
        client.track(user_id, "Step Done", mark, {"ip": "203.0.113.7"})
client.shutdown()
print(json.dumps({"failed": failed}))
