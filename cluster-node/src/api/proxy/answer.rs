//! Errors as Kubo's clients read them.

use cluster_http::Failure;
use http::StatusCode;

/// What Kubo answers whatever goes wrong: 500. Statuses that clients act upon by themselves stay: who may ask, how to ask, and
/// when to come again.
pub fn as_kubo(failure: Failure) -> Failure {
    let keeps = matches!(
        failure.status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    match keeps {
        true => failure,
        false => Failure {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            ..failure
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_is_a_500_unless_a_client_can_act_upon_it() {
        for (status, told) in [
            (400, 500),
            (404, 500),
            (409, 500),
            (413, 500),
            (403, 403),
            (502, 502),
            (503, 503),
        ] {
            let failure = Failure::new(StatusCode::from_u16(status).expect("a status"), "words");
            let shown = as_kubo(failure);
            assert_eq!((shown.status.as_u16(), shown.message.as_str()), (told, "words"));
        }
    }
}
