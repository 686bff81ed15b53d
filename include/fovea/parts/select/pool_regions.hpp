// Regions of an image pooled into one row each.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include <fovea/parts/permute/regions.hpp>
#include <fovea/parts/select/pool.hpp>

namespace fovea::inline FOVEA_ISA::select {

// The mean of each region over its tokens, for all heads of x [B,H,T,D] in one: a row of H D numbers for each region;
// NaN, which is never chosen, for a region without a token.
template <class T, exec::Executor Exec>
Pooled<T> pool_regions(const View<const T>& x, const permute::Regions& regions, const Exec& executor) {
  const Index channels = x.heads * x.dim, count = regions.count();
  Pooled<T> means{x.batch, x.heads > 0 ? Index{1} : Index{0}, count, channels, {}};
  means.rows.assign(std::size_t(x.batch * count * channels), std::numeric_limits<T>::quiet_NaN());
  executor.parallel_for(x.batch * count, double(regions.places() * channels), [&](Index begin, Index end) {
    std::vector<T> of_rows(std::size_t(regions.rows() * x.dim));
    for (Index item = begin; item < end; ++item) {
      const Span rows = regions.rows_of(item % count), columns = regions.columns_of(item % count);
      if (rows.empty() || columns.empty()) continue;
      for (Index h = 0; h < x.heads; ++h) {
        for (Index y = rows.first; y < rows.last; ++y)
          pool_block<T>(Pooling::mean, columns.size(), x.dim, x.row(item / count, h, y * regions.width + columns.first),
                        x.length_stride, of_rows.data() + (y - rows.first) * x.dim);
        pool_block<T>(Pooling::mean, rows.size(), x.dim, of_rows.data(), x.dim,
                      means.rows.data() + item * channels + h * x.dim);
      }
    }
  });
  return means;
}

}  // namespace fovea::inline FOVEA_ISA::select
