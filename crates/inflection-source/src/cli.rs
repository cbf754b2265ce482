//! The command line. Every flag of the stages and of `standalone` has an environment twin, `INFLECTION_<FLAG>`.

mod import;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use inflection_telemetry::LogFormat;

use crate::commands::bench::BenchArgs;
pub(crate) use import::{ImportArgs, ImportFormat};

/// Email engagement in, Segment events out: durable before it says 200, in order for each person, unique where it says
/// unique.
#[derive(Debug, Parser)]
#[command(name = "inflection-source", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How log lines look: text or json.
    #[arg(long, global = true, env = "INFLECTION_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Which log lines are written: error, warn, info, debug, trace, or a list like info,inflection_bus=debug.
    #[arg(long, global = true, env = "INFLECTION_LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the whole thing: a campaign through everything into a local stand-in for Segment. Needs nothing.
    Demo(DemoArgs),
    /// Runs ingest, identity and delivery in one process on the embedded bus.
    Standalone(StandaloneArgs),
    /// Runs the ingest stage on NATS.
    Ingest(IngestArgs),
    /// Runs the identity stage on NATS.
    Identity(StageArgs),
    /// Runs the delivery stage on NATS.
    Delivery(StageArgs),
    /// Creates or checks streams and buckets on NATS, and the installation's identity. Safe to repeat.
    Provision(ProvisionArgs),
    /// Runs a local stand-in for Segment's Tracking API, with faults on demand and a page that shows what arrived.
    Sandbox(SandboxArgs),
    /// Sends history from files through ingest, below live traffic; goes on where it was interrupted.
    Import(ImportArgs),
    /// Shows, replays or drops calls that Segment refused.
    DeadLetters(DeadLettersArgs),
    /// Shows the connections of a running install; pauses, resumes and tests them.
    Connections(ConnectionsArgs),
    /// Suppresses persons: nothing of them is sent from then on, until it is lifted. Erases what is known of them.
    Persons(PersonsArgs),
    /// Balances the books: events in, calls out. Exit code 1 when they do not balance at rest.
    Ledger(LedgerArgs),
    /// Tells every hop of one event: when it came, what was decided and why, what was sent, what was answered.
    Explain(ExplainArgs),
    /// Replays identity's decision logs and compares what comes out. Exit code 2 when it differs.
    State(StateArgs),
    /// Measures the whole pipeline: generator, ingest, identity, delivery, sink, in processes of their own.
    Bench(BenchArgs),
    /// Works on configuration files.
    Config(ConfigArgs),
    /// Asks a URL and exits 0 when it answers 200; for images without a shell.
    Healthcheck(HealthcheckArgs),
}

/// What `demo` is told.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the summary; exit code 0 only if the ledger balances.
    #[arg(long)]
    pub(crate) exit: bool,
    /// How many people the campaign is mailed to.
    #[arg(long, env = "INFLECTION_PROSPECTS", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) prospects: u32,
}

/// Where a process listens.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Public listener of the ingest stage.
    #[arg(long, env = "INFLECTION_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Probes, metrics and the admin API.
    #[arg(long, env = "INFLECTION_ADMIN_LISTEN", default_value = "127.0.0.1:9090")]
    pub(crate) admin_listen: SocketAddr,
    /// Key of the admin API; needed when it does not listen on loopback.
    #[arg(long, env = "INFLECTION_ADMIN_KEY", hide_env_values = true)]
    pub(crate) admin_key: Option<String>,
    /// File with the key of the admin API, read again when it changes; two keys in lines of their own while one replaces the
    /// other.
    #[arg(long, env = "INFLECTION_ADMIN_KEY_FILE", conflicts_with = "admin_key")]
    pub(crate) admin_key_file: Option<PathBuf>,
}

/// Workspaces and connections: a file, flags, or both (then flags win).
#[derive(Debug, Args, Default)]
pub(crate) struct ConfigFileArgs {
    /// Configuration file (TOML).
    #[arg(long, env = "INFLECTION_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Lets endpoints be on loopback, also with plain http. For tests.
    #[arg(long, env = "INFLECTION_ALLOW_INSECURE_ENDPOINT", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) allow_insecure_endpoint: bool,
}

/// How delivery sends.
#[derive(Debug, Args)]
pub(crate) struct SendingArgs {
    /// How long a call waits for company while another request is under way, in milliseconds.
    #[arg(long, env = "INFLECTION_LINGER_MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) linger_ms: u64,
    /// Requests to Segment under way at once, per connection and process. Raise it when Segment's latency is the limit.
    #[arg(long, env = "INFLECTION_IN_FLIGHT_MAX", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) in_flight_max: u16,
    /// How long a connection takes nothing (an outage, a refused key, a pause) until its calls are moved out of memory
    /// into a log of their own, in seconds. They follow in order when it takes calls again.
    #[arg(long, env = "INFLECTION_PARK_AFTER_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) park_after_seconds: u64,
}

/// How identity keeps its state.
#[derive(Debug, Args)]
pub(crate) struct FoldingArgs {
    /// Bytes of decisions after which a partition's state is kept as a snapshot. A restart reads about twice as much at
    /// most (of a large state, four times its own size); what delivery has finished before is deleted, and `explain` knows it no more.
    #[arg(long, env = "INFLECTION_SNAPSHOT_EVERY_BYTES", default_value_t = FoldingArgs::SNAPSHOT_EVERY_BYTES, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) snapshot_every_bytes: u64,
    /// What identity's state may take in this process, in MiB. Above it its partitions hold still, and say so: what is
    /// accepted waits, nothing is forgotten. From 80 % on it is said that it comes near. 0: no budget. Default: half of the
    /// memory that this process may take (its control group's limit, else the machine's).
    #[arg(long, env = "INFLECTION_STATE_BUDGET_MIB", value_parser = clap::value_parser!(u64).range(..=1 << 30))]
    pub(crate) state_budget_mib: Option<u64>,
}

impl FoldingArgs {
    /// Of decisions of one partition.
    pub(crate) const SNAPSHOT_EVERY_BYTES: u64 = 16 * 1024 * 1024;
}

/// What `standalone` is told.
#[derive(Debug, Args)]
pub(crate) struct StandaloneArgs {
    /// Directory of the embedded bus; made when it does not exist.
    #[arg(long, env = "INFLECTION_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Ingest key of the workspace `default`.
    #[arg(long, env = "INFLECTION_INGEST_KEY", hide_env_values = true)]
    pub(crate) ingest_key: Option<String>,
    /// Segment write key of the connection `default`.
    #[arg(long, env = "INFLECTION_WRITE_KEY", hide_env_values = true)]
    pub(crate) write_key: Option<String>,
    /// Segment region of the connection `default`: us or eu.
    #[arg(long, env = "INFLECTION_REGION")]
    pub(crate) region: Option<String>,
    /// Replaces the region's host, on every connection.
    #[arg(long, env = "INFLECTION_SEGMENT_ENDPOINT")]
    pub(crate) segment_endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) file: ConfigFileArgs,
    #[command(flatten)]
    pub(crate) sending: SendingArgs,
    #[command(flatten)]
    pub(crate) folding: FoldingArgs,
    /// Partitions of a new install; an existing one keeps its own.
    #[arg(long, env = "INFLECTION_PARTITIONS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) partitions: u16,
    #[command(flatten)]
    pub(crate) clock: TestClockArgs,
}

/// How to reach NATS.
#[derive(Debug, Args, Default)]
pub(crate) struct NatsArgs {
    /// NATS servers, nats:// or tls://, repeated or separated by commas.
    #[arg(long, env = "INFLECTION_NATS_URL", hide_env_values = true, value_delimiter = ',')]
    pub(crate) nats_url: Vec<String>,
    /// NATS credentials file.
    #[arg(long, env = "INFLECTION_NATS_CREDS")]
    pub(crate) nats_creds: Option<PathBuf>,
    /// Monitoring addresses of the NATS servers (http://host:8222), repeated or separated by commas: only there can be seen
    /// whether they sync every write.
    #[arg(long, env = "INFLECTION_NATS_MONITOR_URL", value_delimiter = ',')]
    pub(crate) nats_monitor_url: Vec<String>,
    /// Uses a bus below the durability policy (one replica, background sync), and says so loudly.
    #[arg(long, env = "INFLECTION_ALLOW_DEGRADED", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) allow_degraded: bool,
}

/// What time it is to signatures of webhooks. For tests only.
#[derive(Debug, Args, Default)]
pub(crate) struct TestClockArgs {
    /// Lets INFLECTION_TEST_NOW_UNIX stop the clock that signatures of webhooks are judged by, so that requests signed long
    /// ago are good. For tests.
    #[arg(long, env = "INFLECTION_ALLOW_TEST_CLOCK", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) allow_test_clock: bool,
    /// Seconds since 1970; without --allow-test-clock it has no effect.
    #[arg(long, env = "INFLECTION_TEST_NOW_UNIX", hide = true)]
    pub(crate) test_now_unix: Option<i64>,
}

/// What `ingest` is told.
#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    pub(crate) stage: StageArgs,
    #[command(flatten)]
    pub(crate) clock: TestClockArgs,
}

/// What a stage is told.
#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) file: ConfigFileArgs,
    #[command(flatten)]
    pub(crate) sending: SendingArgs,
    #[command(flatten)]
    pub(crate) folding: FoldingArgs,
    /// This worker's name among those of its stage, the same after a restart. Default: host name and admin port.
    #[arg(long, env = "INFLECTION_WORKER_ID")]
    pub(crate) worker_id: Option<String>,
}

/// What `provision` is told.
#[derive(Debug, Args)]
pub(crate) struct ProvisionArgs {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    #[command(flatten)]
    pub(crate) file: ConfigFileArgs,
    /// Copies of every stream and bucket.
    #[arg(long, env = "INFLECTION_REPLICAS", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) replicas: u8,
    /// Partitions of a new install (64 on a cluster, 16 on one server, unless set); an existing one keeps its own.
    #[arg(long, env = "INFLECTION_PARTITIONS", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) partitions: Option<u16>,
    /// Most bytes of events that wait for identity.
    #[arg(long, env = "INFLECTION_EVENTS_BYTES_MAX", default_value_t = 2 << 30, value_parser = clap::value_parser!(i64).range(1_048_576..))]
    pub(crate) events_bytes_max: i64,
    /// Most bytes of decisions that are kept; and, in a stream of its own, as many of parked calls.
    #[arg(long, env = "INFLECTION_DECISIONS_BYTES_MAX", default_value_t = 8 << 30, value_parser = clap::value_parser!(i64).range(1_048_576..))]
    pub(crate) decisions_bytes_max: i64,
}

/// What `sandbox` is told.
#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    /// Where it listens.
    #[arg(long, env = "INFLECTION_LISTEN", default_value = "127.0.0.1:8090")]
    pub(crate) listen: SocketAddr,
    /// Answers 401 to unknown keys and 400 where Segment would drop silently.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Write keys it knows; repeat for more. Without any, it takes every key (not with --strict).
    #[arg(long, env = "INFLECTION_WRITE_KEY", hide_env_values = true)]
    pub(crate) write_key: Vec<String>,
    /// Faults to begin with, as JSON: {"rules":[{"fault":{"kind":"status","code":429,"retry_after":"2"},"times":3}]}.
    #[arg(long)]
    pub(crate) faults: Option<String>,
    /// Newest calls kept whole for the views; 0 for load tests.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) calls_max: usize,
}

/// How to reach an install's admin listener.
#[derive(Debug, Args)]
pub(crate) struct AdminListenerArgs {
    /// Admin listener of a running install.
    #[arg(long, env = "INFLECTION_ADMIN_URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) admin_url: String,
    /// Key of the admin API.
    #[arg(long, env = "INFLECTION_ADMIN_KEY", hide_env_values = true)]
    pub(crate) admin_key: Option<String>,
    /// File with the key of the admin API; the first of two.
    #[arg(long, env = "INFLECTION_ADMIN_KEY_FILE", conflicts_with = "admin_key")]
    pub(crate) admin_key_file: Option<PathBuf>,
}

/// How to look into an install: its admin listener, or the bus itself.
#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(crate) listener: AdminListenerArgs,
    #[command(flatten)]
    pub(crate) bus: BusArgs,
}

/// A bus to be read itself.
#[derive(Debug, Args)]
pub(crate) struct BusArgs {
    /// Reads the bus itself, on NATS: covers all processes.
    #[arg(long, env = "INFLECTION_NATS_URL", hide_env_values = true, value_delimiter = ',')]
    pub(crate) nats_url: Vec<String>,
    /// NATS credentials file.
    #[arg(long, env = "INFLECTION_NATS_CREDS")]
    pub(crate) nats_creds: Option<PathBuf>,
    /// Reads the data directory of a stopped standalone install.
    #[arg(long, conflicts_with = "nats_url")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `ledger` is told.
#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// What `state` is told.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    #[command(subcommand)]
    pub(crate) action: StateAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateAction {
    /// Rebuilds the state of every partition in every way there is, from the log and from each snapshot, and compares the
    /// results, every key of them. Reads only; may run beside a running install on NATS. Takes memory for one partition's state.
    Check(BusArgs),
}

/// What `dead-letters` is told.
#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    pub(crate) action: DeadLettersAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersAction {
    /// Lists the calls that were refused and neither replayed nor dropped.
    List(LetterFilterArgs),
    /// Shows one, by its messageId, with the item as it would be sent. Addresses are masked.
    Show(LetterArgs),
    /// Sends again, under the same messageIds: the ones named, or all that match.
    Replay(LettersArgs),
    /// Takes out for good, without sending: the ones named, or all that match.
    Drop(LettersArgs),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct LetterFilterArgs {
    /// Only this workspace.
    #[arg(long)]
    pub(crate) workspace: Option<String>,
    /// Only this connection.
    #[arg(long)]
    pub(crate) connection: Option<String>,
    /// Only letters with this reason, like bad_request, item_too_large or expired.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only letters that died at or after this moment (RFC 3339).
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Only letters that died before this moment (RFC 3339).
    #[arg(long)]
    pub(crate) until: Option<String>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// One dead letter.
#[derive(Debug, Args)]
pub(crate) struct LetterArgs {
    /// Its messageId.
    pub(crate) message_id: String,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// Dead letters by name, or all that match.
#[derive(Debug, Args)]
pub(crate) struct LettersArgs {
    /// Their messageIds.
    #[arg(required_unless_present = "all")]
    pub(crate) message_ids: Vec<String>,
    /// All that match the filter.
    #[arg(long, conflicts_with = "message_ids")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) filter: LetterFilterArgs,
}

/// What `connections` is told.
#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    #[command(subcommand)]
    pub(crate) action: ConnectionsAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionsAction {
    /// Lists the connections with their state. Write keys are shown as their last four characters.
    List(AdminArgs),
    /// Shows one connection.
    Show(ConnectionArgs),
    /// Holds everything of a connection: nothing is sent, nothing is lost, over restarts too.
    Pause(ConnectionArgs),
    /// Lets a connection go on, after a pause or after trouble that was put right.
    Resume(ConnectionArgs),
    /// Tries a connection out, and says how far the proof goes.
    Test(ConnectionArgs),
}

/// What a command asks an install's admin listener by.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    pub(crate) listener: AdminListenerArgs,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which connection.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// Its id.
    pub(crate) id: String,
    /// Its workspace; needed when several workspaces have a connection of this id.
    #[arg(long)]
    pub(crate) workspace: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// What `persons` is told.
#[derive(Debug, Args)]
pub(crate) struct PersonsArgs {
    #[command(subcommand)]
    pub(crate) action: PersonsAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PersonsAction {
    /// Drops the person's events from now on, and its calls that wait. Ingest still takes its events and answers 200.
    Suppress(PersonArgs),
    /// Suppresses, forgets what identity knows of the person, and drops its dead letters.
    Erase(PersonArgs),
    /// Lets the person's events count again from now on. What was dropped or erased does not come back.
    Lift(PersonArgs),
    /// Lists who is suppressed, by keyed hashes: ids are kept nowhere.
    List(AdminArgs),
}

/// Which person.
#[derive(Debug, Args)]
pub(crate) struct PersonArgs {
    /// Its workspace.
    #[arg(long)]
    pub(crate) workspace: String,
    #[command(flatten)]
    pub(crate) whom: WhomArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// A person by one of its ids.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhomArgs {
    /// The person with this id.
    #[arg(long)]
    pub(crate) person_id: Option<String>,
    /// All persons that are this user, now or later.
    #[arg(long)]
    pub(crate) user_id: Option<String>,
    /// The person of events that come with this address and without a person's id.
    #[arg(long)]
    pub(crate) email: Option<String>,
}

/// What `explain` is told.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The sender's id of an event, a Segment messageId, or a person's id.
    pub(crate) id: String,
    /// Shows addresses; they are masked otherwise.
    #[arg(long)]
    pub(crate) addresses: bool,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// What `config` is told.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Reads and checks a whole configuration file and reports every mistake at once; exit code 64 if there is any.
    Check(ConfigFileArgs),
    /// Seals a secret, read from standard input, under the file's `installation.master_key`, for one place in the file.
    Seal(SealArgs),
}

/// What a sealed secret is for.
#[derive(Debug, Args)]
pub(crate) struct SealArgs {
    /// Configuration file (TOML) with `installation.master_key`.
    #[arg(long, env = "INFLECTION_CONFIG")]
    pub(crate) config: PathBuf,
    /// The workspace.
    #[arg(long)]
    pub(crate) workspace: String,
    /// The connection, when it is a write key.
    #[arg(long, required_unless_present_any = ["ingest_key", "webhook"], conflicts_with_all = ["ingest_key", "webhook"])]
    pub(crate) connection: Option<String>,
    /// It is an ingest key of the workspace.
    #[arg(long, conflicts_with = "webhook")]
    pub(crate) ingest_key: bool,
    /// It is a signing secret of one of the workspace's webhooks.
    #[arg(long)]
    pub(crate) webhook: bool,
}

/// What `healthcheck` is told.
#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    /// What to ask, like http://127.0.0.1:9090/readyz.
    #[arg(long)]
    pub(crate) url: String,
}
