// What tells that a run which goes on is the one that began.
#pragma once
#include <string>
#include <string_view>

#include "data/dataset.h"

namespace skipway {

/// The first setting whose line differs between two texts of config.toml; "" when there is none.
/// Where the data is, the device and the number of threads may change: they say where a run is, and
/// change what it computes by the order of its sums alone.
std::string changed_setting(std::string_view begun, std::string_view now);

/// Over the names of the classes and the labels of the training images, in their order.
std::string labels_sha256(const Dataset& dataset);

/// Over the names of the images, in their order.
std::string names_sha256(const Split& split);

}  // namespace skipway
