#include "decode.hpp"

namespace {

const bool added = bench::cached::add<float>("f32", {"paged_16", "paged_16_strewn"});

}  // namespace
