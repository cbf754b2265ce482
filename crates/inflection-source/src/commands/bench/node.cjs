// Posts tracks with Segment's Node SDK as fast as it can: node -e … HOST WRITE_KEY CALLS
let sdk;
try {
  sdk = require('@segment/analytics-node');
} catch {
  process.exit(3);
}
const [host, writeKey, calls] = process.argv.slice(1);
// Requests as large as the SDK makes them well, and patience where the default would repeat what is only slow.
const analytics = new sdk.Analytics({ host, writeKey, maxEventsInBatch: 100, httpRequestTimeout: 120000 });
let failed = 0;
analytics.on('error', () => { failed += 1; });

async function main() {
  const started = process.hrtime.bigint();
  const before = process.cpuUsage();
  for (let number = 0; number < Number(calls); number += 1) {
    const person = Math.floor(number / 5);
    analytics.track({
      anonymousId: `person-${person}`,
      event: 'Email Opened',
      timestamp: new Date(),
      properties: {
        event: 'Email Opened', userId: `prospect${person}@example.com`, email_id: 'mail-1', campaign_id: 'campaign-1',
        campaign_run_id: `run-${person % 50}`, campaign_name: 'Spring launch campaign',
        email_subject: 'What is new this spring, and what comes next', is_unique_open: number % 5 === 0,
        plan: 'pro', region: 'emea',
      },
    });
    // Let what is queued be sent on the way, as an application would.
    if (number % 100 === 99) await new Promise((resolve) => setImmediate(resolve));
  }
  await analytics.closeAndFlush({ timeout: 600000 });
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  const { user, system } = process.cpuUsage(before);
  const { maxRSS } = process.resourceUsage();
  console.log(JSON.stringify({ seconds, cpu_seconds: (user + system) / 1e6, peak_mib: maxRSS / 1024, failed }));
}

main();
