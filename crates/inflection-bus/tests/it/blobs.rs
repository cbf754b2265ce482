//! Blobs of which a server has lost something.

use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use inflection_bus::BlobError;

use crate::backends::NatsServer;

const AMPLE: i64 = 1 << 30;
const STREAM: &str = "OBJ_inflection_blobs";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_lost_pieces_is_damaged_and_others_are_not() {
    let server = NatsServer::start();
    let bus = server.bus(AMPLE).await;
    let large = Bytes::from(vec![7; 1 << 20]);
    for name in ["whole", "cut", "changed"] {
        bus.put_blob(name, large.clone()).await.unwrap();
    }
    let client = async_nats::connect(server.url()).await.unwrap();
    let stream = jetstream::new(client.clone()).get_stream(STREAM).await.unwrap();
    let objects = jetstream::new(client.clone()).get_object_store("inflection_blobs").await.unwrap();
    let pieces = async |name| format!("$O.inflection_blobs.C.{}", objects.info(name).await.unwrap().nuid);
    let cut = stream.get_last_raw_message_by_subject(&pieces("cut").await).await.unwrap().sequence;
    stream.delete_message(cut).await.unwrap();
    // As many as before, but not the same.
    let changed = pieces("changed").await;
    let last = stream.get_last_raw_message_by_subject(&changed).await.unwrap();
    stream.delete_message(last.sequence).await.unwrap();
    jetstream::new(client).publish(changed, vec![8; last.payload.len()].into()).await.unwrap().await.unwrap();

    for name in ["cut", "changed"] {
        let damaged = bus.get_blob(name).await;
        assert!(matches!(damaged, Err(BlobError::Damaged(_))), "{name}: {damaged:?}");
    }
    assert_eq!(bus.get_blob("whole").await.unwrap(), Some(large.clone()));
    bus.put_blob("cut", large.clone()).await.unwrap();
    assert_eq!(bus.get_blob("cut").await.unwrap(), Some(large), "it is whole when it is written again");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cut_off_writes_left_goes_when_it_is_old_and_whole_blobs_stay() {
    let server = NatsServer::start();
    let bus = server.bus(AMPLE).await;
    let blob = Bytes::from(vec![7; 1 << 20]);
    for name in ["state.0.0", "state.0.1"] {
        bus.put_blob(name, blob.clone()).await.unwrap();
    }
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for _piece in 0..2 {
        jetstream.publish("$O.inflection_blobs.C.tornTornTornTornTorn22", "x".into()).await.unwrap().await.unwrap();
    }
    assert_eq!(bus.delete_torn_blobs(Duration::from_secs(3600)).await.unwrap(), 0, "it may still be being written");
    assert_eq!(bus.delete_torn_blobs(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(bus.delete_torn_blobs(Duration::ZERO).await.unwrap(), 0);
    for name in ["state.0.0", "state.0.1"] {
        assert_eq!(bus.get_blob(name).await.unwrap().as_ref(), Some(&blob));
    }
    let mut stream = jetstream.get_stream(STREAM).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.subjects_count, 4, "two blobs, and what they say of themselves");
    bus.close().await;
}
