// The picture of a learning-rate range test.
#pragma once
#include <string>

#include "train/lr_find.h"

namespace skipway {

/// An SVG of its own: loss over the logarithm of the rate, each batch and the mean, with the
/// steepest and the lowest place marked.
std::string lr_plot(const LrFindResult& result);

}  // namespace skipway
