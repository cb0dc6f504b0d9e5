//! Why a connection failed, for people.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why a connection ended: what TLS says in words that tell what to do, and system errors without their number.
pub fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None if error.raw_os_error().is_some() => error.kind().to_string(),
        None => error.to_string(),
    }
}

/// Whether it failed for what one side thinks of the other's TLS, and will again.
pub fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

fn of_tls(error: &Error) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "the other side does not speak TLS".to_owned()
        }
        Error::InvalidCertificate(wrong) => of_certificate(wrong),
        Error::NoCertificatesPresented => "the other side shows no certificate".to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert),
        // Of rustls, and of many kinds.
        other => format!("TLS: {other}"),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        // The latter, if the authority has the name of another.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate of the other side is not signed by the authority of --tls-ca".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of the other side is for another name: {error}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of the other side has expired: {error}")
        }
        other => format!("the certificate of the other side is not accepted: {other}"),
    }
}

/// What the other side says of us.
fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "the other side asks for a certificate: --tls-cert and --tls-key give it".to_owned()
        }
        AlertDescription::UnknownCA => "the other side does not know who signed our certificate".to_owned(),
        AlertDescription::CertificateExpired => "the other side says that our certificate has expired".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => {
            format!("the other side does not accept our certificate ({alert:?})")
        }
        other => format!("the other side refuses TLS with us ({other:?})"),
    }
}
