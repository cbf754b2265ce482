//! `state check`.

use anyhow::Context as _;
use inflection_bus::Bus;
use inflection_identity::{Audit, audit};
use serde_json::{Value, json};

use crate::cli::{BusArgs, StateAction, StateArgs};
use crate::commands::{look, say};
use crate::{End, Failure, install};

pub(crate) async fn run(args: StateArgs) -> Result<End, Failure> {
    let StateAction::Check(args) = args.action;
    let Some(bus) = look::bus(&args).await? else {
        return Err(Failure::Usage("give the bus with --nats-url, or a stopped install with --data-dir".to_owned()));
    };
    let sound = check(&bus, &args).await?;
    bus.close().await;
    if sound { Ok(End::Done) } else { Ok(End::Wrong) }
}

async fn check(bus: &Bus, args: &BusArgs) -> anyhow::Result<bool> {
    let installation = install::load(bus, &Default::default(), None).await?;
    let mut audits = Vec::new();
    for partition in installation.partitions.all().map(|partition| partition.index()) {
        let audit = audit(bus, partition).await.with_context(|| format!("partition {partition}"))?;
        if !args.json {
            say(&line(partition, &audit));
        }
        audits.push((partition, audit));
    }
    let sound = audits.iter().all(|(_, audit)| audit.is_sound());
    if args.json {
        let partitions: Vec<Value> = audits.iter().map(|(partition, audit)| json_of(*partition, audit)).collect();
        say(&json!({ "sound": sound, "partitions": partitions }).to_string());
    } else {
        say(if sound { "every way leads to the same state" } else { "NOT SOUND: see the lines above" });
    }
    Ok(sound)
}

fn line(partition: u16, audit: &Audit) -> String {
    let ways: Vec<String> = audit
        .replays
        .iter()
        .map(|replay| match replay.from {
            0 => format!("log: {} keys, {}", replay.keys, replay.digest),
            from => format!("snapshot at {from}: {} keys, {}", replay.keys, replay.digest),
        })
        .collect();
    let verdict = if audit.is_sound() { "ok" } else { "WRONG" };
    let damaged = match audit.damaged {
        0 => String::new(),
        count => format!("; damaged snapshots: {count}"),
    };
    format!("partition {partition} through {}: {verdict} ({}){damaged}", audit.through, ways.join("; "))
}

fn json_of(partition: u16, audit: &Audit) -> Value {
    let replays: Vec<Value> = audit
        .replays
        .iter()
        .map(|replay| json!({ "from": replay.from, "keys": replay.keys, "digest": replay.digest.to_string() }))
        .collect();
    json!({
        "partition": partition,
        "through": audit.through,
        "sound": audit.is_sound(),
        "damaged_snapshots": audit.damaged,
        "replays": replays,
    })
}
