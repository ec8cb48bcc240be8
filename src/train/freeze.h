// Which parameters training leaves alone, and until when.
#pragma once
#include "model/model.h"
#include "train/config.h"

namespace skipway {

/// Freezes what a step at `epoch` (from 0, with its share) leaves alone, and nothing else: all but
/// the head before --freeze-epochs, BatchNorm with --freeze-batch-norm, an airbench's whitening
/// bias from --whiten-bias-epochs on.
void freeze_at(double epoch, const Config& config, Model& model);

/// Epochs at the beginning of a run whose steps cost otherwise than the later ones, because other
/// parameters are frozen; 0: none.
double early_epochs(const Config& config);

}  // namespace skipway
