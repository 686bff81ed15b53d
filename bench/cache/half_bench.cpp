#include "decode.hpp"

namespace {

const bool added = bench::cached::add<Eigen::half>("f16", {});

}  // namespace
