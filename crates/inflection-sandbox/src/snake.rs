//! Snake case exactly as Segment's warehouses name tables and columns (`segmentio/go-snakecase`, version 1.1.0).
//!
//! The package works over bytes and has a few surprises (digits, leading capitals); predicting the names that will appear
//! in a customer's warehouse means sharing them, so this follows its behaviour and passes its test vectors.

use std::borrow::Cow;

/// The warehouse name of a table, property or trait. Empty when nothing of it is an ASCII letter or digit.
pub(crate) fn snake_case(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    let kept = kept_prefix(bytes);
    let Some(rest) = bytes.get(kept.len..).filter(|rest| !rest.is_empty()) else {
        return Cow::Borrowed(name);
    };
    let mut output = name.get(..kept.len).unwrap_or_default().to_owned();
    output.reserve(rest.len() + 4);
    // A capital right after digits, or after an underscore and digits, belongs to what stands before it: `p_z9Rg`
    // breaks before the R, `2FA` does not break.
    let glued = !kept.ends_a_word && rest.first().is_some_and(u8::is_ascii_uppercase);
    append_chunks(&mut output, rest, glued);
    Cow::Owned(output)
}

/// The leading part that is snake case already.
struct KeptPrefix {
    len: usize,
    /// Whether the last word of the prefix has a lower-case letter, so that a capital after it starts a new word.
    ends_a_word: bool,
}

fn kept_prefix(bytes: &[u8]) -> KeptPrefix {
    let mut seen_lower = false;
    let mut seen_underscore = false;
    let mut lower_since_underscore = false;
    let mut len = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let inner_underscore = *byte == b'_' && at > 0 && bytes.get(at + 1).is_some_and(is_lower_or_digit);
        if byte.is_ascii_lowercase() {
            seen_lower = true;
            lower_since_underscore = seen_underscore;
        } else if inner_underscore {
            seen_underscore = true;
            lower_since_underscore = false;
        } else if !byte.is_ascii_digit() {
            break;
        }
        len = at + 1;
    }
    KeptPrefix { len, ends_a_word: seen_lower && (!seen_underscore || lower_since_underscore) }
}

/// Appends each run of capitals and digits, lowered, together with the run of lower-case letters and digits after it.
fn append_chunks(output: &mut String, bytes: &[u8], mut glued: bool) {
    let mut rest = bytes.iter().copied().peekable();
    while let Some(next) = rest.peek() {
        if !next.is_ascii_alphanumeric() {
            rest.next();
            continue;
        }
        if !output.is_empty() && !glued {
            output.push('_');
        }
        glued = false;
        while let Some(byte) = rest.next_if(is_upper_or_digit) {
            output.push(char::from(byte.to_ascii_lowercase()));
        }
        while let Some(byte) = rest.next_if(is_lower_or_digit) {
            output.push(char::from(byte));
        }
    }
}

fn is_upper_or_digit(byte: &u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn is_lower_or_digit(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(snake_case(name), expected, "{name:?}");
    }

    #[test]
    fn the_test_vectors_of_the_package() {
        check("sample text", "sample_text");
        check("sample-text", "sample_text");
        check("sample_text", "sample_text");
        check("sample___text", "sample_text");
        check("sampleText", "sample_text");
        check("samPLE text", "sam_ple_text");
        check("inviteYourCustomersAddInvites", "invite_your_customers_add_invites");
        check("sample 2 Text", "sample_2_text");
        check("   sample   2    Text   ", "sample_2_text");
        check("   $#$sample   2    Text   ", "sample_2_text");
        check("SAMPLE 2 TEXT", "sample_2_text");
        check("___$$Base64Encode", "base64_encode");
        check("FOO:BAR$BAZ", "foo_bar_baz");
        check("FOO#BAR#BAZ", "foo_bar_baz");
        check("something.com", "something_com");
        check("$something%", "something");
        check("•¶§ƒ˚foo˙∆˚¬", "foo");
        check("CStringRef", "cstring_ref");
        check("2FA Enabled", "2fa_enabled");
        check("THE5r", "the5r");
        check("p_z9Rg", "p_z9_rg");
    }

    #[test]
    fn the_tables_of_the_nine_events() {
        check("Email Delivered", "email_delivered");
        check("Email Opened", "email_opened");
        check("Email Unique Opens", "email_unique_opens");
        check("Email Bounced", "email_bounced");
        check("Email Reported as Spam", "email_reported_as_spam");
        check("Link Clicked", "link_clicked");
        check("Unique Link Click", "unique_link_click");
        check("Unique Link Click per Unique Open", "unique_link_click_per_unique_open");
        check("Email Unsubscribed", "email_unsubscribed");
    }

    #[test]
    fn edges() {
        check("", "");
        check("日本", "");
        check("userId", "user_id");
        check("_private", "private");
        check("trailing_", "trailing");
        check("a_1B", "a_1b");
    }

    proptest! {
        #[test]
        fn only_lower_case_letters_digits_and_underscores_come_out(name in ".{0,40}") {
            let snake = snake_case(&name);
            prop_assert!(snake.bytes().all(|byte| is_lower_or_digit(&byte) || byte == b'_'), "{snake:?}");
        }
    }
}
