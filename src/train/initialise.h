// Beginnings other than a model's own: the stem from the images, residual blocks as identities.
#pragma once
#include <ATen/core/Tensor.h>

#include "base/tensors.h"
#include "model/model.h"

namespace skipway {

/// The last BatchNorm of each residual block begins with a gamma of zero. Source: Goyal et al.,
/// arXiv:1706.02677, section 5.1. `skipped_only`: of those that a shallow stage skips.
void zero_gamma(Model& model, bool skipped_only = false);

/// The first filters of a 3x3 stem become the eigenvectors of the images' 3x3 patches, each with
/// both signs, divided by the root of their eigenvalues; the others stay, and so do those in whose
/// place the images have nothing, as grey ones where colours differ. Source: Jordan,
/// arXiv:2404.00498, section 3.2; there they are not trained, here they are. Images smaller than a
/// filter have no such patches: then nothing changes. Errors: kUsage for another stem.
void whiten_stem(Model& model, const at::Tensor& images);

}  // namespace skipway
