//! Kaggle, through the packages `kagglehub` and `kaggle` that the user has installed. There is no network code here.

mod dataset;
mod place;

pub(super) use dataset::{Dataset, Held};
pub(super) use place::{Kind, Place};

use crate::python::Script;

/// What to do without credentials.
pub(super) const CREDENTIALS: &str = "make an API token at https://www.kaggle.com/settings and put it into the variable \
                                      KAGGLE_API_TOKEN or the file ~/.kaggle/access_token";

/// Calls kagglehub.
pub(super) const HUB: Script = Script {
    text: concat!(include_str!("../../python/answer.py"), include_str!("hub.py")),
    package: "kagglehub",
    credentials: CREDENTIALS,
};
