//! Blobs of which a server has lost something.

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
