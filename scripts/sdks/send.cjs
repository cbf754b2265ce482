// Sends numbered events with Segment's Node SDK: node send.cjs HOST WRITE_KEY EVENTS USERS
const { Analytics } = require('@segment/analytics-node');

const [host, writeKey, events, users] = process.argv.slice(2);
const analytics = new Analytics({ host, writeKey, flushInterval: 1000 });
let failed = 0;
analytics.on('error', (error) => {
  failed += 1;
  console.error('node sdk:', error.code, String(error.reason?.message ?? error.reason ?? ''));
});

function send(seq) {
  const userId = `node-${seq % Number(users)}`;
  const mark = { sdk: 'node', seq };
  if (seq < Number(users)) {
    analytics.identify({ userId, traits: { ...mark, plan: 'pro' } });
  } else if (seq % 50 === 0) {
    analytics.group({ userId, groupId: 'acme', traits: mark });
  } else if (seq % 25 === 0) {
    analytics.page({ userId, category: 'Docs', name: 'Pricing', properties: mark });
  } else {
    analytics.track({ userId, event: 'Step Done', properties: mark, context: { ip: '203.0.113.7' } });
  }
}

async function main() {
  for (let seq = 0; seq < Number(events); seq += 1) {
    send(seq);
    // Let what is queued be sent on the way, as an application would.
    if (seq % 100 === 99) await new Promise((resolve) => setImmediate(resolve));
  }
  await analytics.closeAndFlush({ timeout: 120000 });
  console.log(JSON.stringify({ failed }));
}

main();
