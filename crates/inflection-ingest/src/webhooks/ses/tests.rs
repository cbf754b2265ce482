//! Messages signed by Amazon, messages signed here, and everything that must not be believed or fetched.

use inflection_control::Provider::Ses;
use inflection_domain::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::json;

use super::*;
use crate::webhooks::testing::{NOW, at as moment_of, check_day, headers, parsed, webhook};

const AMAZON: &str = include_str!("../../../fixtures/ses/sns-2021.pem");
const OURS: &str = include_str!("../../../fixtures/ses/test-certificate.pem");
const KEY: &str = include_str!("../../../fixtures/ses/test-key.pkcs8.base64");

const TOPIC: &str = "arn:aws:sns:eu-west-1:111122223333:mail";
const CERTIFICATE_URL: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem";

fn hook(topic: &str) -> Webhook {
    Webhook { topic_arns: vec![topic.to_owned()], ..webhook(Ses, &[]) }
}

fn check(webhook: &Webhook, body: &str, pem: &str, now: Timestamp) -> Result<Proof, Refusal> {
    let certificates = [Certificate::from_pem(pem).unwrap()];
    let headers = headers(&[(TYPE, "Notification")]);
    let delivery = Delivery { webhook, headers: &headers, body: body.as_bytes(), now, certificates: &certificates };
    certificate(&delivery).and_then(|_| verify(&delivery))
}

/// The two messages of aws/aws-sdk-ruby, `gems/aws-sdk-sns/spec/message_verifier_spec.rb` (Apache-2.0).
fn published(version: &str) -> (Webhook, String, Timestamp) {
    let url = "https://sns.us-east-2.amazonaws.com/SimpleNotificationService-7ff5318490ec183fbaddaa2a969abfda.pem";
    let (id, topic, time, signature) = match version {
        "1" => (
            "792cda85-518f-5dd3-9163-81d851212f3a",
            "arn:aws:sns:us-east-2:295079676684:publish-and-verify-892f85fe-4836-424d-8188-ab85bef0f362",
            "2022-07-28T21:23:58.317Z",
            "ghtf+deOBAzHJJZ6s6CdRLfTQAlcGzq9naoFM1wi0CJiq//uVRuZnamrkWNF0fhouMFvuLVRwcz8PZLUMSfnmd5VpdTKpTyiKmy1qJAZXma0w+yi7G+I33hD1Jyk1Nbym2n0kqp3fVu2aoooiN2ZeLAT2bH0/BtjLSfN1yAOKNoprco4qV9gGUZinXJdj9a1YdNhDR2jKi33ldlsVtEXAtiaDklGEk7DgRKX38GerBPiLg3FdtgY6KC7cdeGpU/dGK+4hjc83Ive1HoFkAwqhpgInM2sMytBosoiXfCmOKmU4xeGD0gHDNZTlJUJQDlzw8Eag0H9f/5zXF9d3uy0YQ==",
        ),
        _ => (
            "17dea24b-55c2-540b-8362-f916557af765",
            "arn:aws:sns:us-east-2:295079676684:publish-and-verify-62674b1d-4295-426b-88e7-5fb75652a04e",
            "2022-07-28T21:24:08.324Z",
            "CXVqp9PfZAL+4JHS3Zxo1PFbQsvnOjvmYhtIf17TWpwc+iIVas8kZ8GopuzVzVMdatE7rCl/O4P91Zp05Dwz8lk8dLhfp8gSu3Njlzxlyrmzo9x3va3Jb7zFnedgS2GKnZWHGBdwTXho+TosNUE+3e10OMSlwN5XGDwX7+R3WL+rn+AXmFAqp3alg27sYa55h1dLE9cGszGPjScPdtF3BmZsUDMx9wSdNKsCk+vSvE8yBjnCmUl7laSFj3LzPVrlSwgNYCF3kYnNAkah7NplK4SFhJYLwS0HCVCQJKa8rVbQLf9cBTu60U402mrgy0bN8xWoyimzbYbrOMJjalqkUg==",
        ),
    };
    let body = json!({
        "Type": "Notification", "MessageId": id, "TopicArn": topic, "Message": "Hello world", "Timestamp": time,
        "SignatureVersion": version, "Signature": signature, "SigningCertURL": url, "Subject": null,
    });
    (hook(topic), body.to_string(), moment_of(time))
}

/// A message signed under the certificate for tests.
fn signed(mut message: Json) -> String {
    let members = message.as_object_mut().unwrap();
    let mut put = |name: &str, value: &str| {
        members.entry(name).or_insert_with(|| value.into());
    };
    put("TopicArn", TOPIC);
    put("MessageId", "m-1");
    put("Timestamp", "2026-11-23T09:00:00.000Z");
    put("SignatureVersion", "2");
    put("SigningCertURL", CERTIFICATE_URL);
    let text = Envelope::read(message.to_string().as_bytes()).unwrap().signed().unwrap_or_default();
    let key = STANDARD.decode(KEY.replace('\n', "")).unwrap();
    let key = RsaKeyPair::from_pkcs8(&key).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    message["Signature"] = STANDARD.encode(signature).into();
    message.to_string()
}

#[test]
fn a_day_of_events() {
    check_day(Ses);
}

#[test]
fn messages_that_amazon_signed_are_genuine() {
    for version in ["1", "2"] {
        let (hook, body, now) = published(version);
        assert!(check(&hook, &body, AMAZON, now).is_ok(), "version {version}");
        let as_lambda = body.replace("SigningCertURL", "SigningCertUrl");
        assert!(check(&hook, &as_lambda, AMAZON, now).is_ok(), "version {version}");
        let other = if version == "1" { "2" } else { "1" };
        let told = format!(r#""SignatureVersion":"{version}""#);
        for version in [other, "3", ""] {
            let body = body.replace(&told, &format!(r#""SignatureVersion":"{version}""#));
            assert!(check(&hook, &body, AMAZON, now).is_err(), "told to be of version {version}");
        }
        assert!(check(&hook, &body, AMAZON, moment_of("2022-08-18T00:00:00Z")).is_err(), "the certificate has run out");
        assert!(check(&hook, &body, OURS, now).is_err(), "another certificate");
        assert!(check(&self::hook(TOPIC), &body, AMAZON, now).is_err(), "another topic");
    }
}

#[test]
fn every_bit_of_a_signed_member_counts() {
    let (hook, body, now) = published("2");
    let whole: Json = serde_json::from_str(&body).unwrap();
    for name in ["Message", "MessageId", "Timestamp", "TopicArn", "Type", "Signature"] {
        let value = whole[name].as_str().unwrap();
        for bit in 0..value.len() * 8 {
            let mut changed = value.as_bytes().to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = String::from_utf8(changed) else { continue };
            let mut body = whole.clone();
            body[name] = changed.into();
            assert!(check(&hook, &body.to_string(), AMAZON, now).is_err(), "bit {bit} of {name} does not count");
        }
    }
    let mut with_subject = whole;
    with_subject["Subject"] = "".into();
    assert!(check(&hook, &with_subject.to_string(), AMAZON, now).is_err(), "a subject that was not signed");
}

#[test]
fn only_a_signed_confirmation_of_our_topic_is_followed() {
    let url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=t";
    let message = |url: &str| json!({"Type": "SubscriptionConfirmation", "Token": "t", "Message": "Confirm?", "SubscribeURL": url});
    // The certificate for tests begins later than other tests take place.
    let (hook, now) = (hook(TOPIC), moment_of("2027-01-01T00:00:00Z"));
    let headers = headers(&[(TYPE, "SubscriptionConfirmation")]);
    let certificates = [Certificate::from_pem(OURS).unwrap()];
    let confirms = |body: &str| -> Result<bool, crate::answer::Code> {
        let delivery =
            Delivery { webhook: &hook, headers: &headers, body: body.as_bytes(), now, certificates: &certificates };
        verify(&delivery).map_err(|refusal| refusal.code)?;
        let events = events(&delivery).unwrap();
        let readings: Vec<_> =
            events.iter().flat_map(|event| read(&elements::build(event).unwrap(), &delivery)).collect();
        match &readings[..] {
            [Reading::Confirm(_)] => Ok(true),
            // Counted, kept and warned of.
            [Reading::Malformed(_)] => Ok(false),
            other => panic!("{other:?}"),
        }
    };
    let body = signed(message(url));
    assert_eq!(confirms(&body), Ok(true));
    assert!(confirms(&body.replace("Token=t", "Token=u")).is_err());
    assert!(confirms(&body.replace(r#""Token":"t""#, r#""Token":"u""#)).is_err());
    assert!(confirms(&body.replacen('{', r#"{"Token":"u","#, 1)).is_err(), "a member twice");
    for foreign in [
        "https://sns.eu-west-1.amazonaws.com.evil.example/?Action=ConfirmSubscription",
        "https://evil.example/?Action=ConfirmSubscription",
        "http://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Action=Unsubscribe",
        "https://sns.eu-west-1.amazonaws.com:8443/?Action=ConfirmSubscription",
        "https://user@sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.eu-west-1.amazonaws.com/x?Action=ConfirmSubscription",
    ] {
        assert_eq!(confirms(&signed(message(foreign))), Ok(false), "{foreign}");
    }
}

#[test]
fn certificates_are_fetched_from_amazon_only() {
    let topic_in = |region: &str| format!("arn:aws:sns:{region}:111122223333:mail");
    let is_good =
        |url: &str, region: &str| Url::parse(url).is_ok_and(|url| is_certificate_url(&url, &topic_in(region)));
    let digits = |count: usize| {
        format!("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-{}.pem", "a".repeat(count))
    };
    for (good, region) in [
        (CERTIFICATE_URL, "eu-west-1"),
        ("https://sns.us-gov-west-1.amazonaws.com/SimpleNotificationService-7ff5.pem", "us-gov-west-1"),
        ("https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-7ff5.pem", "cn-north-1"),
        ("https://sns.eu-west-1.amazonaws.com:443/SimpleNotificationService-7ff5.pem", "eu-west-1"),
        (&digits(64), "eu-west-1"),
    ] {
        assert!(is_good(good, region), "{good}");
        assert!(!is_good(good, "us-east-1"), "another region than the topic's: {good}");
    }
    // Amazon's own storage, under names that anybody may have.
    let bucket = "https://sns.s3-eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem";
    assert!(!is_good(bucket, "eu-west-1") && !is_good(bucket, "s3-eu-west-1"));
    assert!(!is_good(&digits(65), "eu-west-1"));
    for bad in [
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-0a.pem",
        "https://evil.example/SimpleNotificationService-0a.pem",
        "https://evil.example#sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-0a.pem",
        "https://evil.example\\@sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-0a.pem",
        "https://user:pass@sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem?x=1",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem#x",
        "https://sns.eu-west-1.amazonaws.com/x/../evil/SimpleNotificationService-0a.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0g.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.key",
        "https://sns.eu-west-1.s3.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://sns.x.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://sns.amazonaws.com/SimpleNotificationService-0a.pem",
        "https://bucket.s3.amazonaws.com/SimpleNotificationService-0a.pem",
    ] {
        assert!(!is_good(bad, "eu-west-1"), "{bad}");
    }
    // A topic that is not ours makes nothing be fetched.
    let (body, headers) = (signed(json!({"Type": "Notification", "Message": "x"})), headers(&[(TYPE, "Notification")]));
    let fetches = |topic: &str| {
        let hook = hook(topic);
        let delivery = Delivery {
            webhook: &hook,
            headers: &headers,
            body: body.as_bytes(),
            now: moment_of(NOW),
            certificates: &[],
        };
        certificate(&delivery).is_ok_and(|url| url.is_some())
    };
    assert!(fetches(TOPIC) && !fetches("arn:aws:sns:eu-west-1:111122223333:other"));
}

#[test]
fn raw_delivery_needs_credentials() {
    let body = br#"{"eventType":"Teleport"}"#;
    let check = |secrets: &[&str], topic: &str, raw: &str| {
        let hook = Webhook { topic_arns: vec![TOPIC.to_owned()], ..webhook(Ses, secrets) };
        let headers = headers(&[
            (TYPE, "Notification"),
            (RAW, raw),
            ("x-amz-sns-topic-arn", topic),
            ("authorization", "Basic dXNlcjpwYXNzd29yZA=="),
        ]);
        let delivery = Delivery { webhook: &hook, headers: &headers, body, now: moment_of(NOW), certificates: &[] };
        verify(&delivery).is_ok()
    };
    assert!(check(&["user:password"], TOPIC, "true"));
    assert!(!check(&["user:another"], TOPIC, "true"));
    assert!(!check(&[], TOPIC, "true"));
    assert!(!check(&["user:password"], "arn:aws:sns:eu-west-1:111122223333:other", "true"));
    assert!(!check(&["user:password"], TOPIC, "false"), "no credentials stand for a signature");
}

fn raw(body: &str) -> crate::webhooks::adapter::Parsed {
    parsed(&hook(TOPIC), &[(RAW, "true")], body.as_bytes()).unwrap()
}

fn delivery_to(count: usize, destinations: usize) -> String {
    let addresses = |count: usize| (0..count).map(|number| format!("p{number}@corp.example")).collect::<Vec<_>>();
    json!({
        "eventType": "Delivery",
        "mail": {"messageId": "m", "destination": addresses(destinations),
            "tags": {"person_id": ["p"], "user_id": ["u"], "group_id": ["g"], "campaign_id": ["spring"]}},
        "delivery": {"timestamp": "2026-11-23T08:00:02Z", "recipients": addresses(count)},
    })
    .to_string()
}

#[test]
fn an_event_has_no_more_recipients_than_a_mail() {
    assert_eq!(raw(&delivery_to(RECIPIENTS_MAX, 1)).facts.len(), RECIPIENTS_MAX);
    let many = delivery_to(RECIPIENTS_MAX + 1, 1);
    let parsed = raw(&many);
    assert!(parsed.facts.is_empty());
    assert_eq!(parsed.rejected.len(), 1);
    assert_eq!(parsed.kept, format!("{many}\n").into_bytes());
}

#[test]
fn an_event_is_kept_once_however_many_recipients_are_refused() {
    let bad = delivery_to(RECIPIENTS_MAX, 2).replace("@corp.example", "@");
    let parsed = raw(&bad);
    assert_eq!(parsed.rejected.len(), RECIPIENTS_MAX);
    assert_eq!(parsed.kept, format!("{bad}\n").into_bytes());
}

#[test]
fn tags_of_a_mail_to_several_name_nobody() {
    let alone = raw(&delivery_to(1, 1)).facts.remove(0);
    assert_eq!((alone.body.person.as_str(), alone.body.group_id.as_deref()), ("p", Some("g")));
    assert!(alone.head.user.is_some());
    // One delivered at a time, of a mail to two.
    let parsed = raw(&delivery_to(1, 2));
    let fact = &parsed.facts[0];
    assert!(fact.body.person.as_str().starts_with("per_") && fact.head.user.is_none() && fact.body.group_id.is_none());
    assert_eq!(fact.body.campaign_id.as_deref(), Some("spring"));
}

#[test]
fn only_the_envelope_asks_for_a_confirmation() {
    let url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=t";
    let inside = [
        json!({"confirm": [url, TOPIC]}),
        json!({"Type": "SubscriptionConfirmation", "SubscribeURL": url, "TopicArn": TOPIC}),
    ];
    for event in inside.map(|event| event.to_string()) {
        assert!(raw(&event).confirm.is_none(), "{event}");
        let body = signed(json!({"Type": "Notification", "Message": event}));
        let parsed = parsed(&hook(TOPIC), &[(TYPE, "Notification")], body.as_bytes()).unwrap();
        assert!(parsed.confirm.is_none() && parsed.ignored["other"] == 1, "{event}");
    }
}

#[test]
fn that_a_destination_works_is_no_event() {
    let text = "Successfully validated SNS topic for Amazon SES event publishing.";
    let body = signed(json!({"Type": "Notification", "Message": text}));
    for parsed in [raw(text), parsed(&hook(TOPIC), &[(TYPE, "Notification")], body.as_bytes()).unwrap()] {
        assert!(parsed.facts.is_empty() && parsed.rejected.is_empty() && parsed.ignored.is_empty());
    }
    assert!(parsed(&hook(TOPIC), &[(RAW, "true")], b"Unsuccessfully").is_none());
}

#[test]
fn members_and_topics_are_bounded() {
    let message = |members: usize| {
        let members: Vec<_> = (0..members).map(|number| format!("\"m{number}\":1")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(Envelope::read(message(MEMBERS_MAX).as_bytes()).is_ok());
    assert!(Envelope::read(message(MEMBERS_MAX + 1).as_bytes()).is_err());
    let topics = |count: usize| {
        let topic = |number| json!({"topicName": format!("t{number}"), "subscriptionStatus": "OptOut"});
        json!({"subscription": {"newTopicPreferences": {"topicSubscriptionStatus": (0..count).map(topic).collect::<Vec<_>>()}}})
    };
    assert_eq!(left_topics(&topics(2)), ["t0", "t1"]);
    assert_eq!(left_topics(&topics(1000)).len(), TOPICS_MAX);
}
