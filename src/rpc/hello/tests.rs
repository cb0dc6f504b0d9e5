//! Hellos that come together, and those that don't.

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::rpc::frames::STALL_MAX;

const WITHIN: Duration = Duration::from_secs(2);

fn pair() -> (Frames<DuplexStream>, Frames<DuplexStream>) {
    let (near, far) = duplex(4096);
    (Frames::new(near, HELLO_BYTES_MAX, STALL_MAX), Frames::new(far, HELLO_BYTES_MAX, STALL_MAX))
}

fn knows(role: Role, password: Option<&str>) -> Me {
    Me { role, secret: password.map(|password| Secret::new(password.as_bytes())) }
}

/// How a hello ends at both sides.
async fn meet(client: Option<&str>, server: Option<&str>) -> (Result<Role, HelloError>, Result<Role, HelloError>) {
    let (mut near, mut far) = pair();
    let offered = async {
        let offered = offer(&mut near, knows(Role::Primary, client), WITHIN).await;
        drop(near);
        offered
    };
    tokio::join!(offered, accept(&mut far, knows(Role::Secondary, server), WITHIN))
}

#[tokio::test]
async fn both_sides_learn_the_role_of_the_other() {
    for password in [None, Some("secret")] {
        let (offered, accepted) = meet(password, password).await;
        assert_eq!((offered.unwrap(), accepted.unwrap()), (Role::Secondary, Role::Primary));
    }
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_told_to_both() {
    let (offered, accepted) = meet(Some("wrong"), Some("secret")).await;
    assert!(matches!(offered, Err(HelloError::WrongPassword)), "{offered:?}");
    assert!(accepted.unwrap_err().is_denial());
    let (offered, accepted) = meet(None, Some("secret")).await;
    assert!(matches!(offered, Err(HelloError::PasswordMissing)), "{offered:?}");
    assert!(accepted.unwrap_err().is_denial());
    let (offered, _) = meet(Some("secret"), None).await;
    assert!(matches!(offered, Err(HelloError::PasswordUnused)), "{offered:?}");
}

#[tokio::test]
async fn who_asks_for_a_password_and_does_not_know_it_is_found_out() {
    // What it was told, it tells again.
    for reflects in [false, true] {
        let (mut near, mut far) = pair();
        let impostor = async {
            let hello = check(&far.next().await.unwrap().unwrap()).unwrap();
            far.send(frame(&encode(Kind::Challenge, Role::Client, &hello.rest))).await.unwrap();
            let proof = check(&far.next().await.unwrap().unwrap()).unwrap();
            let proof = if reflects { proof.rest } else { vec![0; 32] };
            far.send(frame(&encode(Kind::Hello, Role::Client, &proof))).await.unwrap();
        };
        let (offered, ()) = tokio::join!(offer(&mut near, knows(Role::Client, Some("secret")), WITHIN), impostor);
        assert!(matches!(offered, Err(HelloError::Impostor)), "{offered:?}");
    }
}

#[tokio::test]
async fn a_proof_of_an_earlier_exchange_is_worth_nothing() {
    let secret = Secret::new(b"secret");
    let (mut near, mut far) = pair();
    let (mut proof, mut challenges) = (Vec::new(), Vec::new());
    for round in 0..2 {
        let client = async {
            near.send(frame(&encode(Kind::Hello, Role::Client, &[7; NONCE_BYTES]))).await.unwrap();
            let said = check(&near.next().await.unwrap().unwrap()).unwrap();
            if round == 0 {
                let nonces = [[7; NONCE_BYTES], nonce_of(&said).unwrap()];
                let exchange = Exchange { roles: [Role::Client, Role::Secondary], nonces };
                proof = secret.prove(&exchange.of_client()).to_vec();
            }
            challenges.push(said.rest);
            near.send(frame(&encode(Kind::Proof, Role::Client, &proof))).await.unwrap();
            check(&near.next().await.unwrap().unwrap())
        };
        let (answered, accepted) =
            tokio::join!(client, accept(&mut far, knows(Role::Secondary, Some("secret")), WITHIN));
        assert_eq!((answered.is_ok(), accepted.is_ok()), (round == 0, round == 0));
    }
    assert_ne!(challenges[0], challenges[1]);
}

#[tokio::test]
async fn a_wrong_version_is_told_to_both_with_both_versions() {
    let (mut near, mut far) = pair();
    let mut hello = encode(Kind::Hello, Role::Client, b"");
    hello[5..7].copy_from_slice(&7u16.to_le_bytes());
    near.send(frame(&hello)).await.unwrap();
    let accepted = accept(&mut far, Role::Secondary, WITHIN).await.unwrap_err().to_string();
    let answered = check(&near.next().await.unwrap().unwrap()).unwrap_err().to_string();
    for text in [accepted, answered] {
        assert!(text.contains("version 3") && text.contains("version 7"), "{text}");
    }
}

#[tokio::test]
async fn a_wrong_magic_is_refused_and_told_so() {
    let (mut near, mut far) = pair();
    near.send(frame(b"HELO\0\x01\0\0")).await.unwrap();
    assert!(matches!(accept(&mut far, Role::Primary, WITHIN).await, Err(HelloError::NotOverspill)));
    assert!(matches!(check(&near.next().await.unwrap().unwrap()), Err(HelloError::Refused(_))));
}

#[tokio::test]
async fn what_comes_out_of_turn_is_no_hello() {
    for password in [None, Some("secret")] {
        for kind in [Kind::Challenge, Kind::Proof] {
            let (mut near, mut far) = pair();
            near.send(frame(&encode(kind, Role::Client, &[0; NONCE_BYTES]))).await.unwrap();
            let accepted = accept(&mut far, knows(Role::Primary, password), WITHIN).await;
            assert!(matches!(accepted, Err(HelloError::NotOverspill)), "{kind:?}: {accepted:?}");
        }
    }
    for length in [0, NONCE_BYTES - 1, NONCE_BYTES + 1] {
        let (mut near, mut far) = pair();
        near.send(frame(&encode(Kind::Hello, Role::Client, &vec![0; length]))).await.unwrap();
        let accepted = accept(&mut far, knows(Role::Primary, Some("secret")), WITHIN).await;
        assert!(matches!(accepted, Err(HelloError::NotOverspill)), "{length}: {accepted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_hello_in_time_is_given_up() {
    let (mut near, mut far) = pair();
    assert!(matches!(offer(&mut near, Role::Primary, WITHIN).await, Err(HelloError::Timeout(_))));
    drop(near);
    let (mut near, mut alone) = pair();
    assert!(matches!(accept(&mut alone, Role::Primary, WITHIN).await, Err(HelloError::Timeout(_))));
    // Nor who goes silent after the challenge.
    near.send(frame(&encode(Kind::Hello, Role::Client, &[0; NONCE_BYTES]))).await.unwrap();
    let guarded = knows(Role::Primary, Some("secret"));
    assert!(matches!(accept(&mut alone, guarded, WITHIN).await, Err(HelloError::Timeout(_))));
    // The hello that was sent is there, but nobody waits for the answer.
    assert!(accept(&mut far, Role::Primary, WITHIN).await.is_err());
}

#[test]
fn bytes_after_the_hello_of_an_open_node_are_left_for_later_versions() {
    assert_eq!(check(&encode(Kind::Hello, Role::Primary, b"token")).unwrap().role, Role::Primary);
    assert!(matches!(check(b"OVSP"), Err(HelloError::NotOverspill)));
}
