-- What happens at the auction site: 10,000 events a second, of 50 events 1 person, 3 auctions and 46 bids.

CREATE SOURCE persons  INTO person  WITH (connector = 'nexmark', rate = 10000);
CREATE SOURCE auctions INTO auction WITH (connector = 'nexmark', rate = 10000);
CREATE SOURCE bids     INTO bid     WITH (connector = 'nexmark', rate = 10000);
