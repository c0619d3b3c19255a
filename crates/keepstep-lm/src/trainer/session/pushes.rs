//! The copy of a session's saves in another place.

use super::Session;
use crate::trainer::error::TrainError;
use keepstep::remote::PushReport;

impl Session<'_> {
    /// Reports what has become of the copy.
    pub(super) fn say_pushes(&mut self) {
        let reports = self.run.pushes();
        self.report_pushes(&reports);
    }

    fn report_pushes(&mut self, reports: &[PushReport]) {
        for report in reports {
            if let PushReport::Pushed { took, .. } = report {
                self.clock.pushed(*took);
            }
            self.observer.push_report(report);
        }
        if let Some(so_far) = self.run.pushing_for() {
            self.clock.pushing_for(so_far);
        }
    }

    /// Waits until everything saved is copied, as long as the session's time limit allows.
    pub(super) fn wait_for_pushes(&mut self) {
        let until = self.clock.push_until();
        self.run.wait_for_pushes(until);
        self.say_pushes();
        self.run.push_until(until);
    }

    /// Ends the session, with a checkpoint, if another one has taken over the remote, or if it fails and the config is
    /// strict.
    pub(super) fn check_remote(&mut self) -> Result<(), TrainError> {
        self.say_pushes();
        if let Err(error) = self.run.check_remote() {
            self.save_now()?;
            let saves = self.run.wait_for_saves();
            self.report(saves)?;
            return Err(error.into());
        }
        Ok(())
    }
}
